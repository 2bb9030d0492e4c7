"""Prints the answer of a model while it arrives."""

from __future__ import annotations

import sys
from typing import TextIO

import click

from foundry_api.cli.output import is_terminal, sanitize

__all__ = ["AnswerPrinter"]


class AnswerPrinter:
    """Prints one answer, and stores its text, which is complete up to an interruption."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._parts: list[str] = []
        self._in_reasoning = False
        self.has_begun = False  # whether text or reasoning has arrived

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def write_reasoning(self, text: str) -> None:
        # Dimmed, and only on a terminal: a pipe or a file gets the answer alone.
        self.has_begun = self.has_begun or bool(text)
        if text and is_terminal(sys.stderr) and is_terminal(self._stream):
            if not self._in_reasoning:
                self._in_reasoning = True
                click.secho("", dim=True, reset=False, nl=False, err=True)
            click.echo(sanitize(text), nl=False, err=True)

    def write(self, text: str) -> None:
        self._end_reasoning()
        self._parts.append(text)
        self.has_begun = self.has_begun or bool(text)
        # A terminal would execute control sequences; a pipe gets the text unchanged.
        self._stream.write(sanitize(text) if is_terminal(self._stream) else text)
        self._stream.flush()

    def finish(self) -> None:
        """End the last line, unless the answer ended it or is empty."""
        self._end_reasoning()
        if self._parts and not self._parts[-1].endswith("\n"):
            self._stream.write("\n")
            self._stream.flush()

    def _end_reasoning(self) -> None:
        if self._in_reasoning:
            self._in_reasoning = False
            click.secho("\n", reset=True, err=True)
