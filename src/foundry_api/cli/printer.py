"""Prints the answer of a model while it arrives."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

import click

from foundry_api.cli.output import is_terminal, sanitize, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.cli.markdown.blocks import MarkdownRenderer
    from foundry_api.cli.reasoning import ReasoningView

__all__ = ["AnswerPrinter", "get_width"]

MIN_WIDTH = 20
MAX_CALL_LENGTH = 300


class AnswerPrinter:
    """Prints one answer, and stores its text, which is complete up to an interruption.

    Args:
        stream: Where it is printed; None is standard output.
        plain: Print the text as it is, also on a terminal, which otherwise shows Markdown.
        think: Show the reasoning, if there is one, dimmed and on a terminal only: a pipe or a file
            gets the answer alone.
        fold: Show one line in its place when it has ended.
        monotonic: The clock.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        plain: bool = False,
        think: bool = True,
        fold: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stdout
        self._is_terminal = is_terminal(self._stream)
        self.shows_reasoning = think and self._is_terminal and is_terminal(sys.stderr)
        self._is_rendered = self._is_terminal and not plain and os.environ.get("TERM") != "dumb"
        self._markdown = self._make_markdown() if self._is_rendered else None
        self._fold = fold and self._is_rendered
        self._monotonic = monotonic
        self._view: ReasoningView | None = None
        self._reasoning_parts: list[str] = []
        self._parts: list[str] = []
        self._in_reasoning = False
        self.has_begun = False  # whether text or reasoning has arrived

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning_parts)

    def write_reasoning(self, text: str) -> None:
        if not text:
            return
        self.has_begun = True
        self._reasoning_parts.append(text)
        if not self.shows_reasoning:
            return
        if self._view is None:
            self._view = self._make_view()
        self._in_reasoning = True
        self._view.write(sanitize(text))

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
        if self._in_reasoning and self._view is not None:
            self._in_reasoning = False
            self._view.end()

    def _make_view(self) -> ReasoningView:
        # Imported for the models that reason.
        from foundry_api.cli.reasoning import FoldedReasoning, FullReasoning  # noqa: PLC0415

        if self._fold:
            return FoldedReasoning(get_width, self._monotonic)
        return FullReasoning(get_width if self._is_rendered else None)

    def _make_markdown(self) -> MarkdownRenderer:
        from foundry_api.cli.markdown.blocks import MarkdownRenderer  # noqa: PLC0415 - pipes need none

        return MarkdownRenderer(
            lambda text: click.echo(text, file=self._stream, nl=False),
            get_width,
            colour=not os.environ.get("NO_COLOR"),
        )


def get_width() -> int:
    return max(shutil.get_terminal_size().columns, MIN_WIDTH)
