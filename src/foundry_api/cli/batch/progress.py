"""How far a batch is, on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foundry_api.cli.output import bars_for, is_terminal, sanitize_line, sparkline
from foundry_api.observe.format import (
    format_bytes,
    format_duration,
    format_int,
    format_percent,
    format_rate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from rich.console import ConsoleOptions, RenderResult

    from foundry_api.batch.engine import EngineState
    from foundry_api.batch.progress import BatchProgress
    from foundry_api.cli.options import Common

__all__ = [
    "BatchScreen",
    "Watch",
    "engine_in_words",
    "fraction",
    "line",
    "phase_in_words",
    "speed_in_words",
    "telling",
]


BYTES_PER_MB = 2**20
STATES = {"closed": "well", "open": "away", "half-open": "being tried"}
"""Of a service, by the state of the circuit breaker that guards it."""


def fraction(now: BatchProgress) -> float | None:
    """How much is over, 0 to 1; None if that is not known."""
    if now.phase == "checking":
        return min(1.0, now.read_bytes / now.size_bytes) if now.size_bytes else None
    return now.finished / now.total if now.total else None


def phase_in_words(now: BatchProgress) -> str:
    """What goes on, where that is not the answering."""
    if now.phase == "checking":
        size = format_bytes(now.size_bytes) if now.size_bytes else ""
        return " ".join(filter(None, ("checking the input", size and f"({size})")))
    phases = {
        "waiting": "waiting for the other runners",
        "publishing": "writing the output",
    }
    return phases.get(now.phase, "")


def speed_in_words(now: BatchProgress) -> str:
    """`41.2 lines/s, 2,310 tokens/s`, of lately; empty before anything is finished."""
    if now.lines_per_s is None:
        return ""
    tokens = f", {format_rate(now.tokens_per_s)} tokens/s" if now.tokens_per_s else ""
    return f"{format_rate(now.lines_per_s)} lines/s{tokens}"


def engine_in_words(state: EngineState) -> str:
    """`8 in flight of at most 8, 512 queued`, and which services are not well."""
    limit = f" of at most {state.limit}" if state.limit is not None else ""
    parts = [f"{state.in_flight} in flight{limit}", f"{format_int(state.queued)} queued"]
    ill = [(name, told) for name, told in state.services if told != "closed"]
    parts += [f"{name} is {STATES.get(told, told)}" for name, told in ill]
    return ", ".join(parts)


def line(now: BatchProgress) -> str:
    """All of it in one line, for a log."""
    part = fraction(now)
    if now.phase == "checking":
        so_far = "" if part is None else f", {format_percent(part, 1)}"
        return f"{phase_in_words(now)}{so_far}"
    total = (
        f" of {format_int(now.total)} ({format_percent(now.finished, now.total)})"
        if now.total
        else ""
    )
    parts = [
        phase_in_words(now),
        f"{format_int(now.finished)}{total} finished",
        f"{format_int(now.failed)} failed" if now.failed else "",
        f"{format_int(now.shared)} shared" if now.shared else "",
        speed_in_words(now),
        f"{format_duration(now.eta_s)} left" if now.eta_s else "",
        engine_in_words(now.engine) if now.phase == "running" else "",
    ]
    return ", ".join(filter(None, parts))


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
            Text(sanitize_line(title)),
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
        title = Text(sanitize_line(self._title), style="bold", no_wrap=True, overflow="ellipsis")
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
        left = f", {format_duration(max(1, round(now.eta_s)))} left" if now.eta_s else ""
        return f"{format_duration(round(now.elapsed_s))} so far{left}"

    def _engine(self) -> Text:
        state = self._now.engine
        limit = f"/{state.limit}" if state.limit is not None else ""
        told = Text(f"{state.in_flight}{limit} in flight, {format_int(state.queued)} queued")
        for name, health in state.services:
            told.append(f"  {sanitize_line(name)} ")
            told.append(STATES.get(health, health), style=COLOURS.get(health, "default"))
        return told


def _row(label: str, told: Text) -> Text:
    row = Text(label.ljust(LABEL), style="dim", no_wrap=True, overflow="ellipsis")
    row.append_text(Text(style="not dim").append_text(told))
    return row


if TYPE_CHECKING:
    Tell = Callable[[BatchProgress], None]


LINE_EVERY_S = 10.0


class Watch:
    """Remembers how far a batch was when it stopped.

    Attributes:
        last: What was told last; None before that.
    """

    def __init__(self) -> None:
        self.last: BatchProgress | None = None


@contextlib.contextmanager
def telling(title: str, common: Common, watch: Watch) -> Generator[Tell]:
    """What a batch tells its progress.

    Args:
        title: What becomes what.
        common: Whether the command prints JSON; then nothing else is told.
        watch: Remembers what was told.
    """
    with _shown(title, common) as show:

        def tell(now: BatchProgress) -> None:
            watch.last = now
            show(now)

        yield tell


@contextlib.contextmanager
def _shown(title: str, common: Common) -> Generator[Tell]:
    if common.as_json:
        yield _nobody
    elif is_terminal(sys.stderr):
        with BatchScreen(title) as screen:
            yield screen.tell
    else:
        yield _lines(title)


def _nobody(now: BatchProgress) -> None:
    """A program waits for the end."""


def _lines(title: str, clock: Callable[[], float] = time.monotonic) -> Tell:
    """A line now and then; none for what is over before the first is due."""
    due = clock() + LINE_EVERY_S

    def tell(now: BatchProgress) -> None:
        nonlocal due
        if clock() < due:
            return
        due = clock() + LINE_EVERY_S
        click.echo(f"{sanitize_line(title)}: {line(now)}", err=True)

    return tell
