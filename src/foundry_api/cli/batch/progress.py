"""The progress of a batch: a live view on a terminal, else lines in a log."""

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

    ProgressCallback = Callable[[BatchProgress], None]

__all__ = [
    "describe_phase",
    "format_engine",
    "format_line",
    "format_speed",
    "show_progress",
]

# State of a service and its colour, by the state of its circuit breaker.
STATES = {"closed": "available", "open": "unavailable", "half-open": "being tested"}
COLOURS = {"closed": "green", "open": "red", "half-open": "yellow"}
PHASES = {"waiting": "waiting for other runners", "publishing": "writing the output"}

LINE_EVERY_S = 10.0
STEP_S = 1.0
MAX_STEPS = 300  # of the graph; more than terminals are wide
LABEL_WIDTH, VALUE_WIDTH, GAP = 8, 30, 2


@contextlib.contextmanager
def show_progress(title: str, common: GlobalOptions) -> Generator[ProgressCallback]:
    """Yield a callback that shows progress on standard error; with --json it does nothing."""
    if common.as_json:
        yield lambda _: None
    elif is_terminal(sys.stderr):
        with _BatchView(title) as view:
            yield view.update
    else:
        # The first line is due after an interval: a batch that is over by then needs none.
        due_at = time.monotonic() + LINE_EVERY_S

        def print_line(progress: BatchProgress) -> None:
            nonlocal due_at
            if time.monotonic() >= due_at:
                due_at = time.monotonic() + LINE_EVERY_S
                click.echo(f"{sanitize_line(title)}: {format_line(progress)}", err=True)

        yield print_line


def _get_fraction(progress: BatchProgress) -> float | None:
    if progress.phase == "checking":
        return min(1.0, progress.read_bytes / progress.size_bytes) if progress.size_bytes else None
    return progress.finished / progress.total if progress.total else None


def describe_phase(progress: BatchProgress) -> str:
    """Describe a phase other than `running`; empty while requests are running."""
    if progress.phase == "checking":
        size = format_bytes(progress.size_bytes) if progress.size_bytes else ""
        return " ".join(filter(None, ("checking the input", size and f"({size})")))
    return PHASES.get(progress.phase, "")


def format_speed(progress: BatchProgress) -> str:
    """Format as `41.2 lines/s, 2,310 tokens/s`; empty before a line is finished."""
    if progress.lines_per_s is None:
        return ""
    tokens = f", {format_rate(progress.tokens_per_s)} tokens/s" if progress.tokens_per_s else ""
    return f"{format_rate(progress.lines_per_s)} lines/s{tokens}"


def format_engine(state: EngineState) -> str:
    """Format as `8 in flight of at most 8, 512 queued`, with the services that are unavailable."""
    limit = f" of at most {state.limit}" if state.limit is not None else ""
    parts = [f"{state.in_flight} in flight{limit}", f"{format_int(state.queued)} queued"]
    parts += [
        f"{name} is {STATES.get(service_state, service_state)}"
        for name, service_state in state.services
        if service_state != "closed"
    ]
    return ", ".join(parts)


def format_line(progress: BatchProgress) -> str:
    """Format the progress as one line of a log."""
    if progress.phase == "checking":
        fraction = _get_fraction(progress)
        percent = "" if fraction is None else f", {format_percent(fraction, 1)}"
        return f"{describe_phase(progress)}{percent}"
    total = (
        f" of {format_int(progress.total)} ({format_percent(progress.finished, progress.total)})"
        if progress.total
        else ""
    )
    parts = [
        describe_phase(progress),
        f"{format_int(progress.finished)}{total} finished",
        f"{format_int(progress.failed)} failed" if progress.failed else "",
        f"{format_int(progress.shared)} reused" if progress.shared else "",
        format_speed(progress),
        f"{format_duration(progress.eta_s)} left" if progress.eta_s else "",
        format_engine(progress.engine) if progress.phase == "running" else "",
    ]
    return ", ".join(filter(None, parts))


class _BatchView:
    """Shows a progress bar with the current rates below it."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._speeds: deque[float | None] = deque(maxlen=MAX_STEPS)
        self._next_step_at = time.monotonic()
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
        # Progress is reported many times a second; the graph has a step for each second.
        if time.monotonic() >= self._next_step_at:
            self._next_step_at = time.monotonic() + STEP_S
            self._speeds.append(progress.lines_per_s)
        self._live.update(_Frame(self._title, progress, tuple(self._speeds)), refresh=True)


class _Frame:
    """The content of the view; rich renders it again when the terminal is resized."""

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
        progress = self._progress
        fraction = _get_fraction(progress)
        if progress.phase == "checking":
            text = describe_phase(progress)
        elif progress.total is None:  # without a check, the number of lines is unknown
            text = f"{format_int(progress.finished)} lines"
        else:
            share = format_percent(progress.finished, progress.total)
            text = f"{format_int(progress.finished)} of {format_int(progress.total)}  {share:>4}"
        row = Table.grid(padding=(0, GAP, 0, 0))
        row.add_column(width=max(8, width - len(text) - 2 * GAP))
        row.add_column(no_wrap=True)
        bar = ProgressBar(total=1.0, completed=fraction or 0.0, pulse=fraction is None)
        row.add_row(bar, text)
        return row

    def _make_rows(self, graph: str) -> Iterable[Text]:
        progress = self._progress
        if progress.phase == "checking":
            return
        counts = Text(f"{format_int(progress.done)} succeeded", style="green")
        failed_style = "red" if progress.failed else "default"
        counts.append(f", {format_int(progress.failed)} failed", style=failed_style)
        if progress.shared:
            counts.append(f", {format_int(progress.shared)} reused", style="default")
        yield _make_row("lines", counts)
        speed = Text((format_speed(progress) or "-").ljust(VALUE_WIDTH) + " " * GAP)
        speed.append(graph, style="cyan")
        yield _make_row("speed", speed)
        # Whole seconds: fractions would flicker.
        elapsed = f"{format_duration(round(progress.elapsed_s))} elapsed"
        left = f", {format_duration(max(1, round(progress.eta_s)))} left" if progress.eta_s else ""
        yield _make_row("time", Text(f"{elapsed}{left}"))
        if progress.phase != "running":
            yield _make_row("now", Text(describe_phase(progress)))
            return
        engine = progress.engine
        limit = f"/{engine.limit}" if engine.limit is not None else ""
        text = Text(f"{engine.in_flight}{limit} in flight, {format_int(engine.queued)} queued")
        for name, state in engine.services:
            text.append(f"  {sanitize_line(name)} is ")
            text.append(STATES.get(state, state), style=COLOURS.get(state, "default"))
        yield _make_row("engine", text)


def _make_row(label: str, text: Text) -> Text:
    row = Text(label.ljust(LABEL_WIDTH), style="dim", no_wrap=True, overflow="ellipsis")
    row.append_text(Text(style="not dim").append_text(text))
    return row
