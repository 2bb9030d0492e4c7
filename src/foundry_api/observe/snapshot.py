"""What metrics came to at one moment: values, without the counting."""

from __future__ import annotations

import msgspec

from foundry_api.observe.histogram import Distribution
from foundry_api.types.events import BreakerState
from foundry_api.types.serialization import Result

__all__ = ["MetricsSnapshot", "SeriesSnapshot"]


class SeriesSnapshot(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The calls for one model at one service.

    Attributes:
        model: Id of the model; its name as the caller said it where no id was found.
        service: Base URL of the service; `none` for calls that found none.
        answered: Calls that were answered.
        failed: Calls that failed.
        cancelled: Calls whose callers left.
        errors: Failed calls by the names of their errors.
        attempts: Attempts of all the calls.
        retries: Attempts that followed a failed one.
        cached: Calls that were answered from the cache; they are among those answered.
        shared: Calls that were answered with an identical one in flight; among those answered.
        cache_misses: Calls to which the cache had no answer.
        cache_stores: Answers that were kept.
        prompt_tokens: As the service counted them; not again for answers that were kept.
        completion_tokens: As the service counted them; not again for answers that were kept.
        queue_s: Seconds that calls waited for their turn.
        time_to_first_token_s: Seconds from sending a request to its first text.
        duration_s: Seconds from a call to its end.
        tokens_per_second: Of the calls that had a rate.
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
        """All the calls that ended."""
        return self.answered + self.failed + self.cancelled


class MetricsSnapshot(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of a client at one moment.

    Attributes:
        series: One for each pair of model and service.
        breakers: States of the circuit breakers that ever changed, by service.
    """

    series: tuple[SeriesSnapshot, ...]
    breakers: dict[str, BreakerState]
