"""Health samples as a live view, as lines, and as names and values."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
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
from foundry_api.cli.status import make_health_fields
from foundry_api.observe.format import (
    format_bytes,
    format_duration,
    format_int,
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
    "format_limits",
    "format_line",
    "make_sample_fields",
    "make_summary_fields",
]


MAX_SAMPLES = 500  # more than any terminal is wide
MAX_CHANGES = 5
LABEL_WIDTH, VALUE_WIDTH = 11, 12
GAP = 2


class LiveView:
    """Shows the last sample, graphs of the samples before it, and the last state changes."""

    def __init__(self) -> None:
        self._samples: deque[HealthSample] = deque(maxlen=MAX_SAMPLES)
        self._changes: deque[HealthChanged] = deque(maxlen=MAX_CHANGES)
        self._live = Live(Text("Checking ..."), console=Console(), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def add_sample(self, sample: HealthSample) -> None:
        self._samples.append(sample)
        self._live.update(_Frame(list(self._samples), list(self._changes)), refresh=True)

    def add_change(self, change: HealthChanged) -> None:
        """Add a change; it is shown with the next sample."""
        self._changes.append(change)


class _Frame:
    """The content of the view; rich renders it again when the terminal is resized."""

    def __init__(self, samples: list[HealthSample], changes: list[HealthChanged]) -> None:
        self._samples = samples
        self._last = samples[-1]
        self._changes = changes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(8, options.max_width - LABEL_WIDTH - VALUE_WIDTH - 2 * GAP)
        table = self._make_table(width, get_bars(console.encoding))
        yield Group(self._make_title(), table, *self._make_details(), *self._make_changes())

    def _make_title(self) -> Text:
        sample = self._last
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
        shown = self._samples[-width:]
        statuses = Text(" " * (width - len(shown)))
        for sample in shown:
            statuses.append(bars[-1], style=STATE_COLOURS[sample.status])
        span = format_duration(shown[-1].checked_at - shown[0].checked_at)
        table.add_row("status", f"last {span}", statuses)
        for name, current, values, floor in self._make_rows():
            line = format_sparkline(values, width, floor=floor, bars=bars)
            table.add_row(
                Text(sanitize_line(name)), Text(sanitize_line(current)), Text(line, style="cyan")
            )
        return table

    def _make_rows(self) -> Iterable[tuple[str, str, list[float | None], float | None]]:
        last = self._last
        first_token_s, rates = (
            self._get_values(_get_first_token_s),
            self._get_values(_get_tokens_per_second),
        )
        latency = self._get_values(lambda sample: sample.latency_s)
        yield "latency", format_duration(last.latency_s), latency, 0.0
        if any(first_token_s):
            yield "first token", format_duration(_get_last(first_token_s)), first_token_s, 0.0
            yield "tokens/s", format_rate(_get_last(rates)), rates, 0.0
        # From the lowest value shown: against a floor of 0, a growing process would look constant.
        memory = self._get_values(lambda sample: sample.memory_usage)
        yield "memory", format_bytes(last.memory_usage), memory, None
        cpu = self._get_values(lambda sample: sample.cpu_percent)
        yield "CPU", format_percent(last.cpu_percent), cpu, 0.0
        threads = "" if last.threads is None else str(last.threads)
        yield "threads", threads, self._get_values(lambda sample: sample.threads), 0.0

    def _get_values(self, get_value: Callable[[HealthSample], float | None]) -> list[float | None]:
        return [get_value(sample) for sample in self._samples]

    def _make_details(self) -> Iterable[Text]:
        last = self._last
        details = {
            "models": ", ".join(last.loaded_models) or "none loaded",
            "calls": format_limits(last),
            "canary": _format_canary(last),
        }
        for name, value in details.items():
            if value and last.service_generation is not None:
                yield _to_single_line(
                    Text(f"{name.ljust(LABEL_WIDTH + GAP)}{sanitize_line(value)}")
                )
        if last.detail:  # the reason of a bad status, which may take several lines
            yield Text(sanitize(last.detail), style=STATE_COLOURS[last.status])

    def _make_changes(self) -> Iterable[Text]:
        for change in self._changes:
            at = f"{datetime.fromtimestamp(change.at, UTC).astimezone():%H:%M:%S}"
            line = Text(f"{at}  ", style="dim")
            line.append(change.new, style=STATE_COLOURS[change.new])
            line.append(f"  {sanitize_line(change.reason)}" if change.reason else "")
            yield _to_single_line(line)


def _get_last(values: list[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _to_single_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def format_line(sample: HealthSample) -> str:
    """Format a sample as one line of a log."""
    first_token_s, rate = _get_first_token_s(sample), _get_tokens_per_second(sample)
    parts = (
        format_time(sample.checked_at),
        sample.status,
        sample.service or "-",
        format_duration(sample.latency_s),
        format_bytes(sample.memory_usage),
        f"CPU {format_percent(sample.cpu_percent)}" if sample.cpu_percent is not None else "",
        f"first token {format_duration(first_token_s)}" if first_token_s is not None else "",
        f"{format_rate(rate)} tokens/s" if rate is not None else "",
        ",".join(sample.loaded_models),
        sample.detail,
    )
    return "  ".join(part for part in parts if part)


def make_sample_fields(sample: HealthSample) -> list[tuple[str, str]]:
    """Return the names and values of a sample."""
    *fields, detail = make_health_fields(sample)
    threads = "" if sample.threads is None else str(sample.threads)
    return [*fields, ("threads", threads), ("canary", _format_canary(sample)), detail]


def make_summary_fields(summary: HealthSummary) -> list[tuple[str, str]]:
    """Return the names and values of a summary."""
    outages = format_int(summary.outages)
    if summary.outages:
        outages += f", the longest {format_duration(summary.longest_outage_s)}"
    calls = summary.answered + summary.failed
    highest = summary.memory_highest
    rates = summary.tokens_per_second
    return [
        ("from", format_time(summary.first_at)),
        ("to", format_time(summary.last_at)),
        ("checks", format_int(summary.samples)),
        ("available", format_percent(summary.availability, 1)),
        ("outages", outages),
        ("restarts", format_int(summary.restarts)),
        ("latency", _format_quantiles(summary.latency_s)),
        ("first token", _format_quantiles(summary.time_to_first_token_s)),
        ("tokens/s", "" if rates is None else format_rate(rates.p50)),
        ("memory", "" if highest is None else f"at most {format_bytes(highest)}"),
        (
            "calls",
            f"{format_int(summary.answered)} succeeded, {format_int(summary.failed)} failed"
            if calls
            else "",
        ),
    ]


# Without calls of the program, the canary measures in their place.
def _get_first_token_s(sample: HealthSample) -> float | None:
    first_token_s = sample.traffic.time_to_first_token_s
    if first_token_s is None and sample.canary is not None:
        return sample.canary.time_to_first_token_s
    return first_token_s


def _get_tokens_per_second(sample: HealthSample) -> float | None:
    rate = sample.traffic.tokens_per_second
    if rate is None and sample.canary is not None:
        return sample.canary.tokens_per_second
    return rate


def _format_canary(sample: HealthSample) -> str:
    canary = sample.canary
    if canary is None:
        return ""
    age_s = sample.checked_at - canary.at
    # Not `format_age`, whose smallest unit is a minute: canaries run every few seconds.
    ago = "just now" if age_s < 1 else f"{format_duration(age_s)} ago"
    match canary.outcome:
        case "answered":
            first = format_duration(canary.time_to_first_token_s)
            return f"{canary.model} answered {ago}" + (f", first token {first}" if first else "")
        case "traffic":
            return f"not needed: a call succeeded {ago}"
        case "skipped":
            return f"skipped {ago}: {canary.detail}"
        case "failed":
            return f"failed {ago}"


def format_limits(sample: HealthSample) -> str:
    """Format the limiter, the breaker and the calls; empty while nothing happens."""
    limiter, breaker, traffic = sample.limiter, sample.breaker, sample.traffic
    if limiter is None or breaker is None:
        return ""
    idle = not (limiter.in_flight or limiter.queued or traffic.answered or traffic.failed)
    if idle and breaker.state == "closed" and not breaker.calls:
        return ""
    parts = [f"{limiter.in_flight} of {limiter.limit} in flight", f"{limiter.queued} queued"]
    parts += [f"{limiter.abandoned} read for nobody"] if limiter.abandoned else []
    parts += [f"{traffic.answered} succeeded"]
    parts += [f"{traffic.failed} failed"] if traffic.failed else []
    return ", ".join([*parts, f"breaker {breaker.state}"])


def _format_quantiles(quantiles: Quantiles | None) -> str:
    if quantiles is None:
        return ""
    p50, p95 = format_duration(quantiles.p50), format_duration(quantiles.p95)
    return f"{p50} median, {p95} p95, {format_duration(quantiles.highest)} max"
