"""A screen that follows a service's health."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foundry_api.cli.output import (
    STATE_COLOURS,
    format_sparkline,
    get_bars,
    sanitize,
    sanitize_line,
)
from foundry_api.cli.status import format_memory, make_health_fields
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
    "LiveView",
    "format_canary",
    "format_limits",
    "format_line",
    "format_memory",
    "get_first_token_s",
    "get_tokens_per_second",
    "make_sample_fields",
    "make_summary_fields",
]


def format_line(sample: HealthSample) -> str:
    """One look in a line."""
    ttft, speed = get_first_token_s(sample), get_tokens_per_second(sample)
    parts = (
        format_time(sample.checked_at),
        sample.status,
        sample.service or "-",
        format_duration(sample.latency_s),
        format_memory(sample),
        f"CPU {format_percent(sample.cpu_percent)}" if sample.cpu_percent is not None else "",
        f"first token {format_duration(ttft)}" if ttft is not None else "",
        f"{format_rate(speed)} tokens/s" if speed is not None else "",
        ",".join(sample.loaded_models),
        sample.detail,
    )
    return "  ".join(part for part in parts if part)


def make_sample_fields(sample: HealthSample) -> list[tuple[str, str]]:
    """One look as names and values."""
    *fields, detail = make_health_fields(sample)
    threads = "" if sample.threads is None else str(sample.threads)
    return [*fields, ("threads", threads), ("canary", format_canary(sample)), detail]


def make_summary_fields(summary: HealthSummary) -> list[tuple[str, str]]:
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
        ("latency", format_quantiles(summary.latency_s)),
        ("first token", format_quantiles(summary.time_to_first_token_s)),
        (
            "tokens/s",
            format_rate(summary.tokens_per_second.p50) if summary.tokens_per_second else "",
        ),
        ("memory", "" if highest is None else f"at most {format_bytes(highest)}"),
        ("calls", f"{summary.answered} answered, {summary.failed} failed" if calls else ""),
    ]


def get_first_token_s(sample: HealthSample) -> float | None:
    """The time to first token of callers, or of the canary in their place."""
    seen = sample.traffic.time_to_first_token_s
    if seen is None and sample.canary is not None:
        return sample.canary.time_to_first_token_s
    return seen


def get_tokens_per_second(sample: HealthSample) -> float | None:
    """The rate of callers' answers, or of the canary's in their place."""
    seen = sample.traffic.tokens_per_second
    if seen is None and sample.canary is not None:
        return sample.canary.tokens_per_second
    return seen


def format_canary(sample: HealthSample) -> str:
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


def format_limits(sample: HealthSample) -> str:
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


def format_quantiles(quantiles: Quantiles | None) -> str:
    if quantiles is None:
        return ""
    half, most = format_duration(quantiles.p50), format_duration(quantiles.p95)
    return f"{half} median, {most} p95, {format_duration(quantiles.highest)} longest"


MAX_SAMPLES = 500
"""More than any terminal is wide."""

MAX_CHANGES = 5
LABEL_WIDTH, VALUE_WIDTH = 11, 12
GAP = 2


class LiveView:
    """The newest look, how its figures went, and what changed last."""

    def __init__(self) -> None:
        self._samples: deque[HealthSample] = deque(maxlen=MAX_SAMPLES)
        self._changes: deque[HealthChanged] = deque(maxlen=MAX_CHANGES)
        self._live = Live(Text("Looking ..."), console=Console(), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def add_sample(self, sample: HealthSample) -> None:
        """Add a look."""
        self._samples.append(sample)
        self._live.update(_Frame(list(self._samples), list(self._changes)), refresh=True)

    def add_change(self, change: HealthChanged) -> None:
        """Add a change; it is shown with the next look."""
        self._changes.append(change)


class _Frame:
    """What is on the screen after a look, at whatever width the terminal then has."""

    def __init__(self, samples: list[HealthSample], changes: list[HealthChanged]) -> None:
        self._samples = samples
        self._newest = samples[-1]
        self._changes = changes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(8, options.max_width - LABEL_WIDTH - VALUE_WIDTH - 2 * GAP)
        figures = self._make_table(width, get_bars(console.encoding))
        yield Group(self._make_title(), figures, *self._make_facts(), *self._make_history())

    def _make_title(self) -> Text:
        sample = self._newest
        state = sample.status if sample.state == "unknown" else sample.state
        parts = [sample.service or "no service", sample.version or ""]
        parts += [f"up {format_duration(sample.uptime)}"] if sample.uptime is not None else []
        parts += [f"restarts {sample.restarts}"] if sample.restarts else []
        title = Text()
        title.append(f" {state} ", style=f"bold reverse {STATE_COLOURS[state]}")
        title.append(f"  {sanitize_line('  '.join(filter(None, parts)))}")
        return _to_single_line(title)

    def _make_table(self, width: int, bars: str) -> Table:
        table = Table.grid(padding=(0, GAP, 0, 0))
        table.add_column(width=LABEL_WIDTH)
        table.add_column(width=VALUE_WIDTH, justify="right", no_wrap=True)
        table.add_column(width=width, no_wrap=True)
        table.add_row("looks", self._format_span(width), self._make_status_line(width, bars))
        for name, current, values, floor in self._make_rows():
            line = format_sparkline(values, width, floor=floor, bars=bars)
            table.add_row(
                Text(sanitize_line(name)), Text(sanitize_line(current)), Text(line, style="cyan")
            )
        return table

    def _make_rows(self) -> Iterable[tuple[str, str, list[float | None], float | None]]:
        newest = self._newest
        ttft, rates = self._get_values(get_first_token_s), self._get_values(get_tokens_per_second)
        yield (
            "answers in",
            format_duration(newest.latency_s),
            self._get_values(lambda s: s.latency_s),
            0.0,
        )
        if any(ttft):
            yield "first token", format_duration(_get_last(ttft)), ttft, 0.0
            yield "tokens/s", format_rate(_get_last(rates)), rates, 0.0
        yield "memory", format_memory(newest), self._get_values(lambda s: s.memory_usage), None
        yield (
            "CPU",
            format_percent(newest.cpu_percent),
            self._get_values(lambda s: s.cpu_percent),
            0.0,
        )
        threads = "" if newest.threads is None else str(newest.threads)
        yield "threads", threads, self._get_values(lambda s: s.threads), 0.0

    def _get_values(self, get_value: Callable[[HealthSample], float | None]) -> list[float | None]:
        return [get_value(sample) for sample in self._samples]

    def _format_span(self, width: int) -> str:
        shown = self._samples[-width:]
        return f"last {format_duration(shown[-1].checked_at - shown[0].checked_at)}"

    def _make_status_line(self, width: int, bars: str) -> Text:
        shown = self._samples[-width:]
        line = Text(" " * (width - len(shown)))
        for sample in shown:
            line.append(bars[-1], style=STATE_COLOURS[sample.status])
        return line

    def _make_facts(self) -> Iterable[Text]:
        """One fact a line; what is wrong may take several."""
        newest = self._newest
        facts = {
            "models": ", ".join(newest.loaded_models) or "none in memory",
            "callers": format_limits(newest),
            "canary": format_canary(newest),
        }
        for name, fact in facts.items():
            if fact and newest.service_generation is not None:
                yield _to_single_line(Text(f"{name.ljust(LABEL_WIDTH + GAP)}{sanitize_line(fact)}"))
        if newest.detail:
            yield Text(sanitize(newest.detail), style=STATE_COLOURS[newest.status])

    def _make_history(self) -> Iterable[Text]:
        for change in self._changes:
            at = f"{datetime.fromtimestamp(change.at).astimezone():%H:%M:%S}"
            line = Text(f"{at}  ", style="dim")
            line.append(change.new, style=STATE_COLOURS[change.new])
            line.append(f"  {sanitize_line(change.reason)}" if change.reason else "")
            yield _to_single_line(line)


def _get_last(values: list[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _to_single_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
