"""What many samples come to."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from foundry_api.monitor.types import HealthSample

__all__ = ["HealthSummary", "Quantiles", "summarise"]

MAX_INTERVALS = 2
"""A sample stands for the time until the next one, but not for hours without a monitor."""


class Quantiles(Result, msgspec.Struct, frozen=True, kw_only=True):
    """How values are spread.

    Attributes:
        p50: The median.
        p95: Below which 95 of 100 lie.
        p99: Below which 99 of 100 lie.
        highest: The highest of all.
    """

    p50: float
    p95: float
    p99: float
    highest: float


class HealthSummary(Result, msgspec.Struct, frozen=True, kw_only=True):
    """What a monitor saw over a time.

    Attributes:
        first_at: When the state was first known, in seconds since the epoch; None if it never was.
        last_at: When the last look was made.
        observed_s: Seconds that the looks stand for: the times between them, without those in
            which nobody looked.
        samples: How many looks there were.
        availability: Share of the observed time in which the service answered, 0 to 1; None
            without any.
        outages: How often it was down.
        longest_outage_s: Seconds of the longest; 0 without any.
        downtime_s: Seconds of all outages.
        restarts: How often another process was found in the place of the one before.
        latency_s: Of the status route; None if it never answered.
        time_to_first_token_s: Of the medians between two looks, each as often as answers began
            there, and of the canaries; None without any.
        tokens_per_second: Of the medians between two looks, each as often as calls were answered,
            and of the canaries; None without any.
        memory_highest: The most resident bytes; None where the process is not ours to see.
        answered: Calls of the client that were answered.
        failed: Calls of the client that failed.
    """

    first_at: float | None = None
    last_at: float | None = None
    observed_s: float = 0.0
    samples: int = 0
    availability: float | None = None
    outages: int = 0
    longest_outage_s: float = 0.0
    downtime_s: float = 0.0
    restarts: int = 0
    latency_s: Quantiles | None = None
    time_to_first_token_s: Quantiles | None = None
    tokens_per_second: Quantiles | None = None
    memory_highest: int | None = None
    answered: int = 0
    failed: int = 0


def summarise(samples: Iterable[HealthSample]) -> HealthSummary:
    """The summary of samples.

    Args:
        samples: Oldest first.
    """
    all_samples = list(samples)
    # Before the first looks agree, nothing is said of the service, not even that it is down.
    seen = [sample for sample in all_samples if sample.state != "unknown"]
    if not seen:
        return HealthSummary(samples=len(all_samples))
    spans = list(_intervals(seen))
    observed_s = sum(spans)
    down_s = sum(span for sample, span in _zip_weighted(seen, spans) if sample.status == "down")
    outages = list(_iter_outages(seen, spans))
    traffic = [sample.traffic for sample in seen]
    canaries = {sample.canary.at: sample.canary for sample in seen if sample.canary}.values()
    return HealthSummary(
        first_at=seen[0].checked_at,
        last_at=seen[-1].checked_at,
        observed_s=observed_s,
        samples=len(all_samples),
        availability=1 - down_s / observed_s if observed_s else None,
        outages=len(outages),
        longest_outage_s=max(outages, default=0.0),
        downtime_s=sum(outages),
        restarts=_count_restarts(seen),
        latency_s=compute_quantiles((item.latency_s, 1) for item in seen),
        time_to_first_token_s=compute_quantiles(
            [
                *((item.time_to_first_token_s, item.first_tokens) for item in traffic),
                *((item.time_to_first_token_s, 1) for item in canaries),
            ]
        ),
        tokens_per_second=compute_quantiles(
            [
                *((item.tokens_per_second, item.answered) for item in traffic),
                *((item.tokens_per_second, 1) for item in canaries),
            ]
        ),
        memory_highest=max((item.memory_usage for item in seen if item.memory_usage), default=None),
        answered=sum(item.answered for item in traffic),
        failed=sum(item.failed for item in traffic),
    )


def compute_quantiles(values: Iterable[tuple[float | None, int]]) -> Quantiles | None:
    """The quantiles of values, each with how often it counts; None without any."""
    known = sorted((value, weight) for value, weight in values if value is not None and weight)
    if not known:
        return None
    total = sum(weight for _, weight in known)

    def find_value(share: float) -> float:
        rank = share * total
        for value, weight in known:
            rank -= weight
            if rank <= 0:
                return value
        return known[-1][0]

    return Quantiles(
        p50=find_value(0.5), p95=find_value(0.95), p99=find_value(0.99), highest=known[-1][0]
    )


def _zip_weighted(
    samples: list[HealthSample], spans: list[float]
) -> Iterator[tuple[HealthSample, float]]:
    return zip(samples, spans, strict=True)


def _intervals(samples: list[HealthSample]) -> Iterator[float]:
    """Seconds that each sample stands for: until the next one, or as long as an interval."""
    for sample, following in pairwise(samples):
        max_s = MAX_INTERVALS * sample.interval_s
        yield min(max(0.0, following.checked_at - sample.checked_at), max_s)
    yield samples[-1].interval_s


def _iter_outages(samples: list[HealthSample], spans: list[float]) -> Iterator[float]:
    """Seconds of each outage, from the first look without an answer to the first with one.

    Looks without an answer count as an outage once the state is down, which it is until enough
    looks have been answered: one that is answered between them does not make two of it.
    """
    unanswered_s = 0.0
    confirmed = False
    for sample, span in _zip_weighted(samples, spans):
        if sample.status == "down":
            unanswered_s += span
            confirmed = confirmed or sample.state == "down"
        elif sample.state != "down":
            if confirmed:
                yield unanswered_s
            unanswered_s, confirmed = 0.0, False
    if confirmed:
        yield unanswered_s


def _count_restarts(samples: list[HealthSample]) -> int:
    """Each monitor counts from 0."""
    pairs = pairwise(samples)
    return sum(max(0, after.restarts - before.restarts) for before, after in pairs)
