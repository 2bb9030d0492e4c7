"""Snapshots of metrics."""

from __future__ import annotations

import msgspec

from foundry_api.observe.histogram import Distribution
from foundry_api.types.events import BreakerState
from foundry_api.types.serialization import Result

__all__ = ["MetricsSnapshot", "SeriesSnapshot"]


class SeriesSnapshot(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The calls for one model at one service.

    Attributes:
        model: Model id; the name that the caller used if no id was found.
        service: Base URL of the service; `none` for calls that reached no service.
        answered: Number of answered calls.
        failed: Number of failed calls.
        cancelled: Number of calls that the caller cancelled.
        errors: Number of failed calls by the class name of the error.
        attempts: Number of attempts of all calls.
        retries: Number of attempts that followed a failed one.
        cached: Number of calls answered from the cache; included in `answered`.
        shared: Number of calls that shared the answer of an identical call in flight; included in
            `answered`.
        cache_misses: Number of calls whose answer was not in the cache.
        cache_stores: Number of answers stored in the cache.
        prompt_tokens: Tokens as counted by the service, without cached answers.
        completion_tokens: Tokens as counted by the service, without cached answers.
        queue_s: Seconds that calls spent in the queue.
        time_to_first_token_s: Seconds from sending a request to the first text of the answer.
        duration_s: Seconds from the start of a call to its end.
        tokens_per_second: Generation rates of the calls that have one.
    """

    model: str
    service: str
    answered: int
    failed: int
    cancelled: int
    errors: dict[str, int]
    attempts: int
    retries: int
    cached: int = 0
    shared: int = 0
    cache_misses: int = 0
    cache_stores: int = 0
    prompt_tokens: int
    completion_tokens: int
    queue_s: Distribution
    time_to_first_token_s: Distribution
    duration_s: Distribution
    tokens_per_second: Distribution

    @property
    def calls(self) -> int:
        """Number of calls that ended."""
        return self.answered + self.failed + self.cancelled


class MetricsSnapshot(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of a client at one moment.

    Attributes:
        series: One for each pair of model and service.
        breakers: Current state of each circuit breaker that has changed its state, by service.
    """

    series: tuple[SeriesSnapshot, ...]
    breakers: dict[str, BreakerState]
