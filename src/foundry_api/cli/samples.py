"""A monitor's samples and summaries in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.words import (
    format_bytes,
    format_duration,
    format_percent,
    format_rate,
    format_time,
)
from foundry_api.cli.status import health_fields, memory

if TYPE_CHECKING:
    from foundry_api.health_monitor import HealthSample, HealthSummary
    from foundry_api.monitor.summary import Quantiles

__all__ = [
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
