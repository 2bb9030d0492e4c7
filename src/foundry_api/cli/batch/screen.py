"""How far a batch is, on a terminal."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foundry_api.batch.words import format_duration, format_int, format_percent, format_rate
from foundry_api.cli.batch.told import STATES, fraction, phase_in_words
from foundry_api.cli.output import printable_line
from foundry_api.cli.sparkline import bars_for, sparkline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import ConsoleOptions, RenderResult

    from foundry_api.batch.progress import BatchProgress

__all__ = ["BatchScreen"]

STEP_S = 1.0
MOST_STEPS = 300
"""Of the little graph; more than terminals are wide."""

LABEL, GAP = 8, 2
NOW = 30
COLOURS = {"closed": "green", "open": "red", "half-open": "yellow"}


class BatchScreen:
    """The bar, and below it the figures of now.

    Args:
        title: Above the bar: what becomes what.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._speeds: deque[float | None] = deque(maxlen=MOST_STEPS)
        self._due = clock()
        self._live = Live(
            Text(printable_line(title)),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def tell(self, now: BatchProgress) -> None:
        """Show how far it is."""
        if self._clock() >= self._due:
            self._due = self._clock() + STEP_S
            self._speeds.append(now.lines_per_s)
        self._live.update(_Screen(self._title, now, tuple(self._speeds)), refresh=True)


class _Screen:
    """What is on the screen, at whatever width the terminal then has."""

    def __init__(self, title: str, now: BatchProgress, speeds: tuple[float | None, ...]) -> None:
        self._title = title
        self._now = now
        self._speeds = speeds

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title = Text(printable_line(self._title), style="bold", no_wrap=True, overflow="ellipsis")
        room = max(0, options.max_width - LABEL - NOW - GAP)
        bars = bars_for(console.encoding)
        graph = sparkline(self._speeds, min(room, 60), bars=bars).lstrip()
        yield Group(title, self._bar(options.max_width), *self._figures(graph))

    def _bar(self, width: int) -> Table:
        """The bar, with how much of the whole is over at its right."""
        part = fraction(self._now)
        told = self._share()
        row = Table.grid(padding=(0, GAP, 0, 0))
        row.add_column(width=max(8, width - len(told) - 2 * GAP))
        row.add_column(no_wrap=True)
        row.add_row(ProgressBar(total=1.0, completed=part or 0.0, pulse=part is None), told)
        return row

    def _share(self) -> str:
        now = self._now
        if now.phase == "checking":
            return phase_in_words(now)
        if now.total is None:
            return f"{format_int(now.finished)} lines"
        share = format_percent(now.finished, now.total)
        return f"{format_int(now.finished)} of {format_int(now.total)}  {share:>4}"

    def _figures(self, graph: str) -> Iterable[Text]:
        now = self._now
        if now.phase == "checking":
            return
        yield _row("lines", self._counts())
        speed = Text(self._speed().ljust(NOW) + " " * GAP)
        speed.append(graph, style="cyan")
        yield _row("speed", speed)
        yield _row("time", Text(self._time()))
        if now.phase == "running":
            yield _row("engine", self._engine())
        else:
            yield _row("now", Text(phase_in_words(now)))

    def _counts(self) -> Text:
        now = self._now
        told = Text(f"{format_int(now.done)} answered", style="green")
        failed = f", {format_int(now.failed)} failed"
        told.append(failed, style="red") if now.failed else told.append(failed, style="default")
        if now.shared:
            told.append(f", {format_int(now.shared)} shared", style="default")
        return told

    def _speed(self) -> str:
        now = self._now
        if now.lines_per_s is None:
            return "nothing is finished yet"
        return (
            f"{format_rate(now.lines_per_s)} lines/s  {format_rate(now.tokens_per_s or 0)} tokens/s"
        )

    def _time(self) -> str:
        now = self._now
        left = f", {format_duration(max(1, round(now.left_s)))} left" if now.left_s else ""
        return f"{format_duration(round(now.elapsed_s))} so far{left}"

    def _engine(self) -> Text:
        state = self._now.engine
        limit = f"/{state.limit}" if state.limit is not None else ""
        told = Text(f"{state.in_flight}{limit} in flight, {format_int(state.queued)} queued")
        for name, health in state.services:
            told.append(f"  {printable_line(name)} ")
            told.append(STATES.get(health, health), style=COLOURS.get(health, "default"))
        return told


def _row(label: str, told: Text) -> Text:
    row = Text(label.ljust(LABEL), style="dim", no_wrap=True, overflow="ellipsis")
    row.append_text(Text(style="not dim").append_text(told))
    return row
