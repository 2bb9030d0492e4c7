"""Shows a model's reasoning on the terminal: in full, or its end and then one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import click

from foundry_api.cli.markdown.wrapping import LineWrapper
from foundry_api.observe.format import format_count, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FoldedReasoning", "FullReasoning", "ReasoningView"]

FOLD_LINES = 4
REFRESH_S = 0.1


class ReasoningView(Protocol):
    """Shows reasoning while it arrives, without control characters."""

    def write(self, text: str) -> None:
        """Show more of it."""
        ...

    def end(self) -> None:
        """End it, before the answer."""
        ...


class FullReasoning:
    """Writes all of it to standard error, dimmed.

    Args:
        get_width: Returns the width of the terminal, to wrap words at; None does not wrap.
    """

    def __init__(self, get_width: Callable[[], int] | None) -> None:
        self._wrapper = LineWrapper(_write, get_width) if get_width is not None else None
        self._has_begun = False

    def write(self, text: str) -> None:
        if not self._has_begun:
            self._has_begun = True
            click.secho("", dim=True, reset=False, nl=False, err=True)
        if self._wrapper is None:
            _write(text)
        else:
            self._wrapper.put_plain(text)

    def end(self) -> None:
        if self._wrapper is not None:
            self._wrapper.end_line()
        click.secho("" if self._wrapper else "\n", reset=True, err=True)
        self._has_begun = False


class FoldedReasoning:
    """Shows its last lines, dimmed, and when it has ended one line in their place.

    Args:
        get_width: Returns the width of the terminal.
        monotonic: The clock.
    """

    def __init__(self, get_width: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._get_width = get_width
        self._monotonic = monotonic
        self._tail: _Tail | None = None
        self._started_at = self._refreshed_at = 0.0
        self._text = ""  # what its last lines are made of
        self._words = 0

    def write(self, text: str) -> None:
        now = self._monotonic()
        if self._tail is None:
            self._tail = _Tail()
            self._started_at, self._text, self._words = now, "", 0
        continues_word = self._text[-1:].strip() and text[:1].strip()
        self._words += len(text.split()) - bool(continues_word)
        self._text = (self._text + text)[-self._get_width() * (FOLD_LINES + 1) :]
        if now - self._refreshed_at >= REFRESH_S:
            self._refreshed_at = now
            self._tail.show(self._text)

    def end(self) -> None:
        if self._tail is None:
            return
        self._tail.remove()
        self._tail = None
        duration = format_duration(self._monotonic() - self._started_at)
        words = format_count(self._words, "word")
        click.secho(f"Thought for {duration}, {words}. /think shows it.", dim=True, err=True)


class _Tail:
    """The last lines of a text, which are replaced until they are removed."""

    def __init__(self) -> None:
        # 50 ms, which only reasoning models cost.
        from rich.console import Console  # noqa: PLC0415
        from rich.live import Live  # noqa: PLC0415

        self._console = Console(stderr=True)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._live.start()

    def show(self, text: str) -> None:
        from rich.text import Text  # noqa: PLC0415 - as above

        lines = Text(text.strip(), style="dim").wrap(self._console, self._console.width)
        self._live.update(Text("\n").join(lines[-FOLD_LINES:]), refresh=True)

    def remove(self) -> None:
        self._live.stop()


def _write(text: str) -> None:
    click.echo(text, err=True, nl=False)
