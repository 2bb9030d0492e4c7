"""A screen that follows a service's health."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foundry_api.cli.output import STATE_COLOURS, bars_for, sanitize, sanitize_line, sparkline
from foundry_api.cli.status import health_fields, memory
from foundry_api.observe.format import (
    format_bytes,
    format_duration,
    format_percent,
    format_rate,
    format_time,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import ConsoleOptions, RenderResult

    from foundry_api.monitor.monitor import HealthChanged, HealthSample, HealthSummary
    from foundry_api.monitor.summary import Quantiles

__all__ = [
    "LiveScreen",
    "canary_in_words",
    "first_token_s",
    "guards_in_words",
    "line",
    "memory",
    "sample_fields",
    "summary_fields",
    "tokens_per_second",
]


def line(sample: HealthSample) -> str:
    """One look in a line."""
    ttft, speed = first_token_s(sample), tokens_per_second(sample)
    parts = (
        format_time(sample.checked_at),
        sample.status,
        sample.service or "-",
        format_duration(sample.latency_s),
        memory(sample),
        f"CPU {format_percent(sample.cpu_percent)}" if sample.cpu_percent is not None else "",
        f"first token {format_duration(ttft)}" if ttft is not None else "",
        f"{format_rate(speed)} tokens/s" if speed is not None else "",
        ",".join(sample.loaded_models),
        sample.detail,
    )
    return "  ".join(part for part in parts if part)


def sample_fields(sample: HealthSample) -> list[tuple[str, str]]:
    """One look as names and values."""
    *fields, detail = health_fields(sample)
    threads = "" if sample.threads is None else str(sample.threads)
    return [*fields, ("threads", threads), ("canary", canary_in_words(sample)), detail]


def summary_fields(summary: HealthSummary) -> list[tuple[str, str]]:
    """A summary as names and values."""
    share = summary.availability
    outages = f"{summary.outages}"
    if summary.outages:
        outages += f", the longest {format_duration(summary.longest_outage_s)}"
    calls = summary.answered + summary.failed
    highest = summary.memory_highest
    return [
        ("from", format_time(summary.first_at)),
        ("to", format_time(summary.last_at)),
        ("looks", str(summary.samples)),
        ("available", format_percent(share, 1)),
        ("outages", outages),
        ("restarts", str(summary.restarts)),
        ("latency", _spread(summary.latency_s)),
        ("first token", _spread(summary.time_to_first_token_s)),
        (
            "tokens/s",
            format_rate(summary.tokens_per_second.p50) if summary.tokens_per_second else "",
        ),
        ("memory", "" if highest is None else f"at most {format_bytes(highest)}"),
        ("calls", f"{summary.answered} answered, {summary.failed} failed" if calls else ""),
    ]


def first_token_s(sample: HealthSample) -> float | None:
    """The time to first token of callers, or of the canary in their place."""
    seen = sample.traffic.time_to_first_token_s
    if seen is None and sample.canary is not None:
        return sample.canary.time_to_first_token_s
    return seen


def tokens_per_second(sample: HealthSample) -> float | None:
    """The rate of callers' answers, or of the canary's in their place."""
    seen = sample.traffic.tokens_per_second
    if seen is None and sample.canary is not None:
        return sample.canary.tokens_per_second
    return seen


def canary_in_words(sample: HealthSample) -> str:
    """How the last canary went."""
    canary = sample.canary
    if canary is None:
        return ""
    ago_s = sample.checked_at - canary.at
    ago = "just now" if ago_s < 1 else f"{format_duration(ago_s)} ago"
    match canary.outcome:
        case "answered":
            first = format_duration(canary.time_to_first_token_s)
            return f"{canary.model} answered {ago}" + (f", first token {first}" if first else "")
        case "traffic":
            return f"not needed: a caller was answered {ago}"
        case "skipped":
            return f"skipped {ago}: {canary.detail}"
        case "failed":
            return f"failed {ago}"


def guards_in_words(sample: HealthSample) -> str:
    """The limiter, the breaker and the calls, where there are any."""
    limiter, breaker, traffic = sample.limiter, sample.breaker, sample.traffic
    if limiter is None or breaker is None:
        return ""
    idle = not (limiter.in_flight or limiter.queued or traffic.answered or traffic.failed)
    if idle and breaker.state == "closed" and not breaker.calls:
        return ""
    parts = [f"{limiter.in_flight} of {limiter.limit} in flight", f"{limiter.queued} queued"]
    parts += [f"{traffic.answered} answered"]
    parts += [f"{traffic.failed} failed"] if traffic.failed else []
    return ", ".join([*parts, f"breaker {breaker.state}"])


def _spread(quantiles: Quantiles | None) -> str:
    if quantiles is None:
        return ""
    half, most = format_duration(quantiles.p50), format_duration(quantiles.p95)
    return f"{half} median, {most} p95, {format_duration(quantiles.highest)} longest"


MOST_SAMPLES = 500
"""More than any terminal is wide."""

CHANGES = 5
LABEL, NOW = 11, 12
GAP = 2


class LiveScreen:
    """The newest look, how its figures went, and what changed last."""

    def __init__(self) -> None:
        self._seen: deque[HealthSample] = deque(maxlen=MOST_SAMPLES)
        self._changes: deque[HealthChanged] = deque(maxlen=CHANGES)
        self._live = Live(Text("Looking ..."), console=Console(), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def show(self, sample: HealthSample) -> None:
        """Add a look."""
        self._seen.append(sample)
        self._live.update(_Screen(list(self._seen), list(self._changes)), refresh=True)

    def changed(self, change: HealthChanged) -> None:
        """Add a change; it is shown with the next look."""
        self._changes.append(change)


class _Screen:
    """What is on the screen after a look, at whatever width the terminal then has."""

    def __init__(self, seen: list[HealthSample], changes: list[HealthChanged]) -> None:
        self._seen = seen
        self._newest = seen[-1]
        self._changes = changes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(8, options.max_width - LABEL - NOW - 2 * GAP)
        figures = self._figures(width, bars_for(console.encoding))
        yield Group(self._title(), figures, *self._words(), *self._history())

    def _title(self) -> Text:
        sample = self._newest
        state = sample.status if sample.state == "unknown" else sample.state
        told = [sample.service or "no service", sample.version or ""]
        told += [f"up {format_duration(sample.uptime)}"] if sample.uptime is not None else []
        told += [f"restarts {sample.restarts}"] if sample.restarts else []
        title = Text()
        title.append(f" {state} ", style=f"bold reverse {STATE_COLOURS[state]}")
        title.append(f"  {sanitize_line('  '.join(filter(None, told)))}")
        return _one_line(title)

    def _figures(self, width: int, bars: str) -> Table:
        table = Table.grid(padding=(0, GAP, 0, 0))
        table.add_column(width=LABEL)
        table.add_column(width=NOW, justify="right", no_wrap=True)
        table.add_column(width=width, no_wrap=True)
        table.add_row("looks", self._span(width), self._looks(width, bars))
        for name, now, values, floor in self._rows():
            line = sparkline(values, width, floor=floor, bars=bars)
            table.add_row(
                Text(sanitize_line(name)), Text(sanitize_line(now)), Text(line, style="cyan")
            )
        return table

    def _rows(self) -> Iterable[tuple[str, str, list[float | None], float | None]]:
        newest = self._newest
        ttft, rates = self._values(first_token_s), self._values(tokens_per_second)
        yield (
            "answers in",
            format_duration(newest.latency_s),
            self._values(lambda s: s.latency_s),
            0.0,
        )
        if any(ttft):
            yield "first token", format_duration(_last(ttft)), ttft, 0.0
            yield "tokens/s", format_rate(_last(rates)), rates, 0.0
        yield "memory", memory(newest), self._values(lambda s: s.memory_usage), None
        yield "CPU", format_percent(newest.cpu_percent), self._values(lambda s: s.cpu_percent), 0.0
        threads = "" if newest.threads is None else str(newest.threads)
        yield "threads", threads, self._values(lambda s: s.threads), 0.0

    def _values(self, of: Callable[[HealthSample], float | None]) -> list[float | None]:
        return [of(sample) for sample in self._seen]

    def _span(self, width: int) -> str:
        shown = self._seen[-width:]
        return f"last {format_duration(shown[-1].checked_at - shown[0].checked_at)}"

    def _looks(self, width: int, bars: str) -> Text:
        shown = self._seen[-width:]
        line = Text(" " * (width - len(shown)))
        for sample in shown:
            line.append(bars[-1], style=STATE_COLOURS[sample.status])
        return line

    def _words(self) -> Iterable[Text]:
        """One fact a line; what is wrong may take several."""
        newest = self._newest
        facts = {
            "models": ", ".join(newest.loaded_models) or "none in memory",
            "callers": guards_in_words(newest),
            "canary": canary_in_words(newest),
        }
        for name, told in facts.items():
            if told and newest.generation is not None:
                yield _one_line(Text(f"{name.ljust(LABEL + GAP)}{sanitize_line(told)}"))
        if newest.detail:
            yield Text(sanitize(newest.detail), style=STATE_COLOURS[newest.status])

    def _history(self) -> Iterable[Text]:
        for change in self._changes:
            at = f"{datetime.fromtimestamp(change.at).astimezone():%H:%M:%S}"
            line = Text(f"{at}  ", style="dim")
            line.append(change.new, style=STATE_COLOURS[change.new])
            line.append(f"  {sanitize_line(change.reason)}" if change.reason else "")
            yield _one_line(line)


def _last(values: list[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
