"""Prints the answer of a model while it arrives."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

import click

from foundry_api.cli.output import is_terminal, sanitize, sanitize_line

if TYPE_CHECKING:
    from foundry_api.cli.markdown.blocks import MarkdownRenderer
    from foundry_api.cli.markdown.wrapping import LineWrapper

__all__ = ["AnswerPrinter"]

MIN_WIDTH = 20
MAX_CALL_LENGTH = 300


class AnswerPrinter:
    """Prints one answer, and stores its text, which is complete up to an interruption.

    Args:
        stream: Where it is printed; None is standard output.
        plain: Print the text as it is, also on a terminal, which otherwise shows Markdown.
        think: Show the reasoning, if there is one, dimmed and on a terminal only: a pipe or a file
            gets the answer alone.
    """

    def __init__(
        self, stream: TextIO | None = None, *, plain: bool = False, think: bool = True
    ) -> None:
        self._stream = stream or sys.stdout
        self._is_terminal = is_terminal(self._stream)
        self.shows_reasoning = think and self._is_terminal and is_terminal(sys.stderr)
        self._is_rendered = self._is_terminal and not plain and os.environ.get("TERM") != "dumb"
        self._markdown: MarkdownRenderer | None = None
        self._thoughts: LineWrapper | None = None
        if self._is_rendered:
            self._markdown, self._thoughts = self._make_markdown(), _make_wrapper()
        self._parts: list[str] = []
        self._in_reasoning = False
        self.has_begun = False  # whether text or reasoning has arrived

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def write_reasoning(self, text: str) -> None:
        self.has_begun = self.has_begun or bool(text)
        if not (text and self.shows_reasoning):
            return
        if not self._in_reasoning:
            self._in_reasoning = True
            click.secho("", dim=True, reset=False, nl=False, err=True)
        if self._thoughts is None:
            click.echo(sanitize(text), nl=False, err=True)
            return
        self._thoughts.put_plain(sanitize(text))

    def write(self, text: str) -> None:
        self._end_reasoning()
        self._parts.append(text)
        self.has_begun = self.has_begun or bool(text)
        if self._markdown is not None:
            self._markdown.feed(sanitize(text))
        else:
            # A terminal would execute control sequences; a pipe gets the text unchanged.
            self._stream.write(sanitize(text) if self._is_terminal else text)
        self._stream.flush()

    def write_tool_call(self, name: str, arguments: str, result: str) -> None:
        """Show a call of a tool, dimmed and on a terminal only."""
        self.finish()
        if self._is_rendered:
            self._markdown = self._make_markdown()
        self._parts.clear()  # what precedes a call is not the answer
        if self._is_terminal and is_terminal(sys.stderr):
            call = f"{name}({arguments}) = {result}"
            short = call if len(call) <= MAX_CALL_LENGTH else f"{call[:MAX_CALL_LENGTH]} ..."
            click.secho(sanitize_line(short), dim=True, err=True)

    def finish(self) -> None:
        """End the last line, unless the answer ended it or is empty."""
        self._end_reasoning()
        if self._markdown is not None:
            self._markdown.finish()
        elif self._parts and not self._parts[-1].endswith("\n"):
            self._stream.write("\n")
        self._stream.flush()

    def _end_reasoning(self) -> None:
        if self._in_reasoning:
            self._in_reasoning = False
            if self._thoughts is not None:
                self._thoughts.end_line()
            click.secho("" if self._thoughts else "\n", reset=True, err=True)

    def _make_markdown(self) -> MarkdownRenderer:
        from foundry_api.cli.markdown.blocks import MarkdownRenderer  # noqa: PLC0415 - pipes need none

        return MarkdownRenderer(
            lambda text: click.echo(text, file=self._stream, nl=False),
            _get_width,
            colour=not os.environ.get("NO_COLOR"),
        )


def _make_wrapper() -> LineWrapper:
    from foundry_api.cli.markdown.wrapping import LineWrapper  # noqa: PLC0415 - as above

    return LineWrapper(_write_error, _get_width)


def _get_width() -> int:
    return max(shutil.get_terminal_size().columns, MIN_WIDTH)


def _write_error(text: str) -> None:
    click.echo(text, err=True, nl=False)
