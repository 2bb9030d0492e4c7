"""Metrics in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from foundry_api.observe.histogram import Distribution
    from foundry_api.observe.snapshot import MetricsSnapshot, SeriesSnapshot

    Sample = tuple[str, dict[str, str], float]

__all__ = ["CONTENT_TYPE", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = ("closed", "open", "half-open")


def render(snapshot: MetricsSnapshot) -> str:
    """The exposition of a client's metrics, for a `/metrics` route or a textfile collector.

    Args:
        snapshot: From `client.metrics.snapshot()`.
    """
    lines: list[str] = []
    for name, kind, help_text, samples in _make_families(snapshot):
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        lines += [f"{full}{_format_labels(labels)} {value:.17g}" for full, labels, value in samples]
    return "\n".join(lines) + "\n"


def _make_families(snapshot: MetricsSnapshot) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    series = snapshot.series
    for name, help_text, values in _COUNTERS:
        samples = [
            (name, {**_get_labels(item), **more}, n) for item in series for more, n in values(item)
        ]
        yield name, "counter", help_text, samples
    for name, help_text, value in _HISTOGRAMS:
        buckets = [
            s for item in series for s in _make_buckets(name, _get_labels(item), value(item))
        ]
        yield name, "histogram", help_text, buckets
    name = "foundry_breaker_state"
    states = [
        (name, {"service": service, "state": state}, float(state == current))
        for service, current in snapshot.breakers.items()
        for state in _STATES
    ]
    yield name, "gauge", "1 for the state that the circuit breaker is in.", states


def _count_outcomes(series: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    counts = {"answered": series.answered, "failed": series.failed, "cancelled": series.cancelled}
    return [({"outcome": outcome}, count) for outcome, count in counts.items()]


def _count_errors(series: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    return [({"type": name}, count) for name, count in series.errors.items()]


def _count_tokens(series: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    return [
        ({"kind": "prompt"}, series.prompt_tokens),
        ({"kind": "completion"}, series.completion_tokens),
    ]


def _count_cache_lookups(series: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    counts = {"hit": series.cached, "shared": series.shared, "miss": series.cache_misses}
    return [({"result": result}, count) for result, count in counts.items() if count]


def _count_cache_stores(series: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    return [({}, series.cache_stores)] if series.cache_stores else []


_COUNTERS: tuple[
    tuple[str, str, Callable[[SeriesSnapshot], list[tuple[dict[str, str], float]]]], ...
] = (
    ("foundry_calls_total", "Calls that ended.", _count_outcomes),
    ("foundry_call_errors_total", "Calls that failed, by the type of their error.", _count_errors),
    ("foundry_attempts_total", "Attempts of all calls.", lambda series: [({}, series.attempts)]),
    (
        "foundry_retries_total",
        "Attempts after a failed one.",
        lambda series: [({}, series.retries)],
    ),
    ("foundry_tokens_total", "Tokens as the service counted them.", _count_tokens),
    (
        "foundry_cache_lookups_total",
        "Calls that the cache may serve, by what it had.",
        _count_cache_lookups,
    ),
    ("foundry_cache_stores_total", "Answers that the cache kept.", _count_cache_stores),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[SeriesSnapshot], Distribution]], ...] = (
    (
        "foundry_queue_seconds",
        "Time that calls waited for their turn.",
        lambda series: series.queue_s,
    ),
    (
        "foundry_time_to_first_token_seconds",
        "Time from sending a request to its first text.",
        lambda series: series.time_to_first_token_s,
    ),
    (
        "foundry_call_duration_seconds",
        "Time from a call to its end.",
        lambda series: series.duration_s,
    ),
    (
        "foundry_tokens_per_second",
        "Tokens a second of one call, after its first.",
        lambda series: series.tokens_per_second,
    ),
)


def _get_labels(series: SeriesSnapshot) -> dict[str, str]:
    return {"model": series.model, "service": series.service}


def _make_buckets(
    name: str, labels: dict[str, str], distribution: Distribution
) -> Iterator[Sample]:
    bounds = [f"{bound:g}" for bound in distribution.bounds]
    for bound, count in zip([*bounds, "+Inf"], accumulate(distribution.counts), strict=True):
        yield f"{name}_bucket", {**labels, "le": bound}, count
    yield f"{name}_sum", labels, distribution.sum
    yield f"{name}_count", labels, distribution.count


def _format_labels(labels: dict[str, str]) -> str:
    text = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{text}}}" if text else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
