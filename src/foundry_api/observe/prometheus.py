"""Metrics in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.observe.histogram import Distribution
    from foundry_api.observe.snapshot import MetricsSnapshot, SeriesSnapshot

__all__ = ["CONTENT_TYPE", "format_family", "format_histogram", "format_sample", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "foundry_calls_total": "Calls that ended.",
    "foundry_call_errors_total": "Calls that failed, by the type of their error.",
    "foundry_attempts_total": "Attempts of all calls.",
    "foundry_retries_total": "Attempts after a failed one.",
    "foundry_tokens_total": "Tokens as counted by the service.",
    "foundry_cache_lookups_total": "Calls that the cache may serve, by result.",
    "foundry_cache_stores_total": "Answers stored in the cache.",
}
# By name, the help text and the field of a series.
_HISTOGRAMS = {
    "foundry_queue_seconds": ("Time that calls spent in the queue.", "queue_s"),
    "foundry_time_to_first_token_seconds": (
        "Time from sending a request to the first text of the answer.",
        "time_to_first_token_s",
    ),
    "foundry_call_duration_seconds": ("Time from a call to its end.", "duration_s"),
    "foundry_tokens_per_second": (
        "Tokens per second of one call, after its first.",
        "tokens_per_second",
    ),
}
_BREAKER_STATES = ("closed", "open", "half-open")


def render(snapshot: MetricsSnapshot) -> str:
    """Format a snapshot for a `/metrics` route or a textfile collector."""
    # Prometheus requires all samples of a metric to be together.
    samples: dict[str, list[str]] = {name: [] for name in (*_COUNTERS, *_HISTOGRAMS)}
    for series in snapshot.series:
        labels = {"model": series.model, "service": series.service}
        for name, more_labels, count in _iter_counts(series):
            samples[name].append(format_sample(name, labels | more_labels, count))
        for name, (_, field) in _HISTOGRAMS.items():
            samples[name] += format_histogram(name, labels, getattr(series, field))
    lines: list[str] = []
    for name, help_text in _COUNTERS.items():
        lines += format_family(name, "counter", help_text, samples[name])
    for name, (help_text, _) in _HISTOGRAMS.items():
        lines += format_family(name, "histogram", help_text, samples[name])
    name = "foundry_breaker_state"
    states = [
        format_sample(name, {"service": service, "state": state}, state == current)
        for service, current in snapshot.breakers.items()
        for state in _BREAKER_STATES
    ]
    lines += format_family(name, "gauge", "1 for the current state of the circuit breaker.", states)
    return "\n".join(lines) + "\n"


def _iter_counts(series: SeriesSnapshot) -> Iterator[tuple[str, dict[str, str], int]]:
    """Yield the names, labels and values of counters."""
    yield "foundry_calls_total", {"outcome": "answered"}, series.answered
    yield "foundry_calls_total", {"outcome": "failed"}, series.failed
    yield "foundry_calls_total", {"outcome": "cancelled"}, series.cancelled
    for error, count in series.errors.items():
        yield "foundry_call_errors_total", {"type": error}, count
    yield "foundry_attempts_total", {}, series.attempts
    yield "foundry_retries_total", {}, series.retries
    yield "foundry_tokens_total", {"kind": "prompt"}, series.prompt_tokens
    yield "foundry_tokens_total", {"kind": "completion"}, series.completion_tokens
    # Without a cache, there are no samples of it.
    lookups = {"hit": series.cached, "shared": series.shared, "miss": series.cache_misses}
    for result, count in lookups.items():
        if count:
            yield "foundry_cache_lookups_total", {"result": result}, count
    if series.cache_stores:
        yield "foundry_cache_stores_total", {}, series.cache_stores


def format_histogram(name: str, labels: dict[str, str], distribution: Distribution) -> list[str]:
    """Return the samples of a histogram."""
    bounds = [*(f"{bound:g}" for bound in distribution.bounds), "+Inf"]
    counts = accumulate(distribution.counts)
    return [
        *(
            format_sample(f"{name}_bucket", {**labels, "le": bound}, count)
            for bound, count in zip(bounds, counts, strict=True)
        ),
        format_sample(f"{name}_sum", labels, distribution.sum),
        format_sample(f"{name}_count", labels, distribution.count),
    ]


def format_family(name: str, kind: str, help_text: str, samples: list[str]) -> list[str]:
    """Return the lines of a metric."""
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *samples]


def format_sample(name: str, labels: dict[str, str], value: float) -> str:
    """Return the line of a value."""
    text = ",".join(f'{label}="{_escape(value)}"' for label, value in labels.items())
    return f"{name}{{{text}}} {value:.17g}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
