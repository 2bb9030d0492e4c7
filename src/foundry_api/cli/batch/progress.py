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

from foundry_api.cli.output import format_sparkline, get_bars, is_terminal, sanitize_line
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
    from foundry_api.cli.options import GlobalOptions

__all__ = [
    "BatchScreen",
    "LastProgress",
    "describe_phase",
    "format_engine",
    "format_line",
    "format_speed",
    "get_fraction",
    "report_progress",
]


BYTES_PER_MB = 2**20
STATES = {"closed": "well", "open": "away", "half-open": "being tried"}
"""Of a service, by the state of the circuit breaker that guards it."""


def get_fraction(progress: BatchProgress) -> float | None:
    """How much is over, 0 to 1; None if that is not known."""
    if progress.phase == "checking":
        return min(1.0, progress.read_bytes / progress.size_bytes) if progress.size_bytes else None
    return progress.finished / progress.total if progress.total else None


def describe_phase(progress: BatchProgress) -> str:
    """What goes on, where that is not the answering."""
    if progress.phase == "checking":
        size = format_bytes(progress.size_bytes) if progress.size_bytes else ""
        return " ".join(filter(None, ("checking the input", size and f"({size})")))
    phases = {
        "waiting": "waiting for the other runners",
        "publishing": "writing the output",
    }
    return phases.get(progress.phase, "")


def format_speed(progress: BatchProgress) -> str:
    """`41.2 lines/s, 2,310 tokens/s`, of lately; empty before anything is finished."""
    if progress.lines_per_s is None:
        return ""
    tokens = f", {format_rate(progress.tokens_per_s)} tokens/s" if progress.tokens_per_s else ""
    return f"{format_rate(progress.lines_per_s)} lines/s{tokens}"


def format_engine(state: EngineState) -> str:
    """`8 in flight of at most 8, 512 queued`, and which services are not well."""
    limit = f" of at most {state.limit}" if state.limit is not None else ""
    parts = [f"{state.in_flight} in flight{limit}", f"{format_int(state.queued)} queued"]
    ill = [
        (name, service_state) for name, service_state in state.services if service_state != "closed"
    ]
    parts += [
        f"{name} is {STATES.get(service_state, service_state)}" for name, service_state in ill
    ]
    return ", ".join(parts)


def format_line(progress: BatchProgress) -> str:
    """All of it in one line, for a log."""
    part = get_fraction(progress)
    if progress.phase == "checking":
        so_far = "" if part is None else f", {format_percent(part, 1)}"
        return f"{describe_phase(progress)}{so_far}"
    total = (
        f" of {format_int(progress.total)} ({format_percent(progress.finished, progress.total)})"
        if progress.total
        else ""
    )
    parts = [
        describe_phase(progress),
        f"{format_int(progress.finished)}{total} finished",
        f"{format_int(progress.failed)} failed" if progress.failed else "",
        f"{format_int(progress.shared)} shared" if progress.shared else "",
        format_speed(progress),
        f"{format_duration(progress.eta_s)} left" if progress.eta_s else "",
        format_engine(progress.engine) if progress.phase == "running" else "",
    ]
    return ", ".join(filter(None, parts))


STEP_S = 1.0
MAX_STEPS = 300
"""Of the little graph; more than terminals are wide."""

LABEL_WIDTH, GAP = 8, 2
VALUE_WIDTH = 30
COLOURS = {"closed": "green", "open": "red", "half-open": "yellow"}


class BatchScreen:
    """The bar, and below it the figures of now.

    Args:
        title: Above the bar: what becomes what.
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, title: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._monotonic = monotonic
        self._speeds: deque[float | None] = deque(maxlen=MAX_STEPS)
        self._due = monotonic()
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

    def update(self, progress: BatchProgress) -> None:
        """Show how far it is."""
        if self._monotonic() >= self._due:
            self._due = self._monotonic() + STEP_S
            self._speeds.append(progress.lines_per_s)
        self._live.update(_Frame(self._title, progress, tuple(self._speeds)), refresh=True)


class _Frame:
    """What is on the screen, at whatever width the terminal then has."""

    def __init__(
        self, title: str, progress: BatchProgress, speeds: tuple[float | None, ...]
    ) -> None:
        self._title = title
        self._progress = progress
        self._speeds = speeds

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title = Text(sanitize_line(self._title), style="bold", no_wrap=True, overflow="ellipsis")
        room = max(0, options.max_width - LABEL_WIDTH - VALUE_WIDTH - GAP)
        bars = get_bars(console.encoding)
        graph = format_sparkline(self._speeds, min(room, 60), bars=bars).lstrip()
        yield Group(title, self._make_bar(options.max_width), *self._make_rows(graph))

    def _make_bar(self, width: int) -> Table:
        """The bar, with how much of the whole is over at its right."""
        part = get_fraction(self._progress)
        percent = self._format_fraction()
        row = Table.grid(padding=(0, GAP, 0, 0))
        row.add_column(width=max(8, width - len(percent) - 2 * GAP))
        row.add_column(no_wrap=True)
        row.add_row(ProgressBar(total=1.0, completed=part or 0.0, pulse=part is None), percent)
        return row

    def _format_fraction(self) -> str:
        progress = self._progress
        if progress.phase == "checking":
            return describe_phase(progress)
        if progress.total is None:
            return f"{format_int(progress.finished)} lines"
        share = format_percent(progress.finished, progress.total)
        return f"{format_int(progress.finished)} of {format_int(progress.total)}  {share:>4}"

    def _make_rows(self, graph: str) -> Iterable[Text]:
        progress = self._progress
        if progress.phase == "checking":
            return
        yield _make_row("lines", self._make_counts())
        speed = Text(self._format_speed().ljust(VALUE_WIDTH) + " " * GAP)
        speed.append(graph, style="cyan")
        yield _make_row("speed", speed)
        yield _make_row("time", Text(self._format_time()))
        if progress.phase == "running":
            yield _make_row("engine", self._make_engine_text())
        else:
            yield _make_row("now", Text(describe_phase(progress)))

    def _make_counts(self) -> Text:
        progress = self._progress
        text = Text(f"{format_int(progress.done)} answered", style="green")
        failed = f", {format_int(progress.failed)} failed"
        text.append(failed, style="red") if progress.failed else text.append(
            failed, style="default"
        )
        if progress.shared:
            text.append(f", {format_int(progress.shared)} shared", style="default")
        return text

    def _format_speed(self) -> str:
        progress = self._progress
        if progress.lines_per_s is None:
            return "nothing is finished yet"
        tokens_per_s = format_rate(progress.tokens_per_s or 0)
        return f"{format_rate(progress.lines_per_s)} lines/s  {tokens_per_s} tokens/s"

    def _format_time(self) -> str:
        progress = self._progress
        remaining = (
            f", {format_duration(max(1, round(progress.eta_s)))} left" if progress.eta_s else ""
        )
        return f"{format_duration(round(progress.elapsed_s))} so far{remaining}"

    def _make_engine_text(self) -> Text:
        state = self._progress.engine
        limit = f"/{state.limit}" if state.limit is not None else ""
        text = Text(f"{state.in_flight}{limit} in flight, {format_int(state.queued)} queued")
        for name, health in state.services:
            text.append(f"  {sanitize_line(name)} ")
            text.append(STATES.get(health, health), style=COLOURS.get(health, "default"))
        return text


def _make_row(label: str, text: Text) -> Text:
    row = Text(label.ljust(LABEL_WIDTH), style="dim", no_wrap=True, overflow="ellipsis")
    row.append_text(Text(style="not dim").append_text(text))
    return row


if TYPE_CHECKING:
    ProgressCallback = Callable[[BatchProgress], None]


LINE_EVERY_S = 10.0


class LastProgress:
    """Remembers how far a batch was when it stopped.

    Attributes:
        progress: What was told last; None before that.
    """

    def __init__(self) -> None:
        self.progress: BatchProgress | None = None


@contextlib.contextmanager
def report_progress(
    title: str, common: GlobalOptions, last_progress: LastProgress
) -> Generator[ProgressCallback]:
    """What a batch tells its progress.

    Args:
        title: What becomes what.
        common: Whether the command prints JSON; then nothing else is told.
        last_progress: Remembers what was told.
    """
    with _show_progress(title, common) as show:

        def record(progress: BatchProgress) -> None:
            last_progress.progress = progress
            show(progress)

        yield record


@contextlib.contextmanager
def _show_progress(title: str, common: GlobalOptions) -> Generator[ProgressCallback]:
    if common.as_json:
        yield _ignore
    elif is_terminal(sys.stderr):
        with BatchScreen(title) as screen:
            yield screen.update
    else:
        yield _make_line_printer(title)


def _ignore(progress: BatchProgress) -> None:
    """A program waits for the end."""


def _make_line_printer(
    title: str, monotonic: Callable[[], float] = time.monotonic
) -> ProgressCallback:
    """A line now and then; none for what is over before the first is due."""
    due = monotonic() + LINE_EVERY_S

    def print_line(progress: BatchProgress) -> None:
        nonlocal due
        if monotonic() < due:
            return
        due = monotonic() + LINE_EVERY_S
        click.echo(f"{sanitize_line(title)}: {format_line(progress)}", err=True)

    return print_line
