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
    for name, kind, told, samples in _families(snapshot):
        lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
        lines += [f"{full}{_labels(labels)} {value:.17g}" for full, labels, value in samples]
    return "\n".join(lines) + "\n"


def _families(snapshot: MetricsSnapshot) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
    series = snapshot.series
    for name, told, values in _COUNTERS:
        samples = [(name, {**_of(one), **more}, n) for one in series for more, n in values(one)]
        yield name, "counter", told, samples
    for name, told, value in _HISTOGRAMS:
        buckets = [s for one in series for s in _buckets(name, _of(one), value(one))]
        yield name, "histogram", told, buckets
    name = "foundry_breaker_state"
    states = [
        (name, {"service": service, "state": state}, float(state == now))
        for service, now in snapshot.breakers.items()
        for state in _STATES
    ]
    yield name, "gauge", "1 for the state that the circuit breaker is in.", states


def _outcomes(one: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    counts = {"answered": one.answered, "failed": one.failed, "cancelled": one.cancelled}
    return [({"outcome": outcome}, count) for outcome, count in counts.items()]


def _errors(one: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    return [({"type": name}, count) for name, count in one.errors.items()]


def _tokens(one: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    return [
        ({"kind": "prompt"}, one.prompt_tokens),
        ({"kind": "completion"}, one.completion_tokens),
    ]


def _cache(one: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    counts = {"hit": one.cached, "shared": one.shared, "miss": one.cache_misses}
    return [({"result": result}, count) for result, count in counts.items() if count]


def _stores(one: SeriesSnapshot) -> list[tuple[dict[str, str], float]]:
    return [({}, one.cache_stores)] if one.cache_stores else []


_COUNTERS: tuple[
    tuple[str, str, Callable[[SeriesSnapshot], list[tuple[dict[str, str], float]]]], ...
] = (
    ("foundry_calls_total", "Calls that ended.", _outcomes),
    ("foundry_call_errors_total", "Calls that failed, by the type of their error.", _errors),
    ("foundry_attempts_total", "Attempts of all calls.", lambda one: [({}, one.attempts)]),
    ("foundry_retries_total", "Attempts after a failed one.", lambda one: [({}, one.retries)]),
    ("foundry_tokens_total", "Tokens as the service counted them.", _tokens),
    ("foundry_cache_lookups_total", "Calls that the cache may serve, by what it had.", _cache),
    ("foundry_cache_stores_total", "Answers that the cache kept.", _stores),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[SeriesSnapshot], Distribution]], ...] = (
    ("foundry_queue_seconds", "Time that calls waited for their turn.", lambda one: one.queue_s),
    (
        "foundry_time_to_first_token_seconds",
        "Time from sending a request to its first text.",
        lambda one: one.time_to_first_token_s,
    ),
    ("foundry_call_duration_seconds", "Time from a call to its end.", lambda one: one.duration_s),
    (
        "foundry_tokens_per_second",
        "Tokens a second of one call, after its first.",
        lambda one: one.tokens_per_second,
    ),
)


def _of(one: SeriesSnapshot) -> dict[str, str]:
    return {"model": one.model, "service": one.service}


def _buckets(name: str, labels: dict[str, str], told: Distribution) -> Iterator[Sample]:
    bounds = [f"{bound:g}" for bound in told.bounds]
    for bound, count in zip([*bounds, "+Inf"], accumulate(told.counts), strict=True):
        yield f"{name}_bucket", {**labels, "le": bound}, count
    yield f"{name}_sum", labels, told.sum
    yield f"{name}_count", labels, told.count


def _labels(labels: dict[str, str]) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
