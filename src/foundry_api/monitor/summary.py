"""Summarises samples: availability, outages and quantiles."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from foundry_api.monitor.types import HealthSample

__all__ = ["HealthSummary", "Quantiles", "summarise"]

# A sample counts for the time until the next one, but not for hours without a monitor.
MAX_INTERVALS = 2


class Quantiles(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The distribution of values.

    Attributes:
        p50: The median.
        p95: The 95th percentile.
        p99: The 99th percentile.
        highest: The highest value.
    """

    p50: float
    p95: float
    p99: float
    highest: float


class HealthSummary(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The results of a monitor over a period.

    Attributes:
        first_at: When the state was first known, in seconds since the epoch; None if it never was.
        last_at: Time of the last check, in seconds since the epoch; None if the state never was
            known.
        observed_s: Seconds that the checks cover, without the times when no monitor ran.
        samples: Number of checks.
        availability: Share of the observed time in which the service answered, 0 to 1; None if no
            time was observed.
        outages: How often the service was down.
        longest_outage_s: Seconds of the longest outage; 0 without one.
        downtime_s: Seconds of all outages.
        restarts: How often another process took the place of the previous one.
        latency_s: Response times of the status route; None if it never answered.
        time_to_first_token_s: Times to the first token of the canaries and of the client's calls;
            None without any. For the calls, the median of each interval counts once per answer
            that started in it.
        tokens_per_second: Rates of the canaries and of the client's calls; None without any. For
            the calls, the median of each interval counts once per call that was answered in it.
        memory_highest: Highest resident memory in bytes; None if this user may not read the
            process.
        answered: Number of the client's calls that were answered.
        failed: Number of the client's calls that failed.
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
    """Summarise samples, oldest first."""
    all_samples = list(samples)
    # Before the first checks agree, the state is unknown: the service may still be starting.
    known = [sample for sample in all_samples if sample.state != "unknown"]
    if not known:
        return HealthSummary(samples=len(all_samples))
    durations_s = list(_iter_durations(known))
    observed_s = sum(durations_s)
    down_s = sum(
        duration_s
        for sample, duration_s in zip(known, durations_s, strict=True)
        if sample.status == "down"
    )
    outages = list(_iter_outages(known, durations_s))
    traffic = [sample.traffic for sample in known]
    # Each sample has the last canary, so the same one is in many samples.
    canaries = {sample.canary.at: sample.canary for sample in known if sample.canary}.values()
    # Each monitor counts restarts from 0, so a lower number belongs to a new monitor.
    restarts = sum(max(0, after.restarts - before.restarts) for before, after in pairwise(known))
    return HealthSummary(
        first_at=known[0].checked_at,
        last_at=known[-1].checked_at,
        observed_s=observed_s,
        samples=len(all_samples),
        availability=1 - down_s / observed_s if observed_s else None,
        outages=len(outages),
        longest_outage_s=max(outages, default=0.0),
        downtime_s=sum(outages),
        restarts=restarts,
        latency_s=compute_quantiles((item.latency_s, 1) for item in known),
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
        memory_highest=max(
            (item.memory_usage for item in known if item.memory_usage), default=None
        ),
        answered=sum(item.answered for item in traffic),
        failed=sum(item.failed for item in traffic),
    )


def compute_quantiles(values: Iterable[tuple[float | None, int]]) -> Quantiles | None:
    """Compute the quantiles of weighted values; None without any."""
    weighted = sorted((value, weight) for value, weight in values if value is not None and weight)
    if not weighted:
        return None
    total = sum(weight for _, weight in weighted)

    def find_value(share: float) -> float:
        rank = share * total
        for value, weight in weighted:
            rank -= weight
            if rank <= 0:
                return value
        return weighted[-1][0]

    return Quantiles(
        p50=find_value(0.5), p95=find_value(0.95), p99=find_value(0.99), highest=weighted[-1][0]
    )


def _iter_durations(samples: list[HealthSample]) -> Iterator[float]:
    """Yield the seconds that each sample counts for."""
    for sample, following in pairwise(samples):
        max_s = MAX_INTERVALS * sample.interval_s
        yield min(max(0.0, following.checked_at - sample.checked_at), max_s)
    yield samples[-1].interval_s


def _iter_outages(samples: list[HealthSample], durations_s: list[float]) -> Iterator[float]:
    """Yield the seconds of each outage."""
    # Failed checks count as an outage once the state is down, which it stays until enough checks
    # succeed. So a single success in between does not split an outage.
    unanswered_s = 0.0
    confirmed = False
    for sample, duration_s in zip(samples, durations_s, strict=True):
        if sample.status == "down":
            unanswered_s += duration_s
            confirmed = confirmed or sample.state == "down"
        elif sample.state != "down":
            if confirmed:
                yield unanswered_s
            unanswered_s, confirmed = 0.0, False
    if confirmed:
        yield unanswered_s
