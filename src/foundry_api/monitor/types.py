"""The values that a monitor returns and reports."""

from __future__ import annotations

from typing import Literal

import msgspec

from foundry_api.monitor.health import HealthStatus
from foundry_api.resilience.breaker import BreakerStatistics  # noqa: TC001 - as above
from foundry_api.resilience.limiter import LimiterStatistics  # noqa: TC001 - msgspec reads it
from foundry_api.types.serialization import Result

__all__ = ["Canary", "HealthChanged", "HealthSample", "HealthState", "Traffic"]

HealthState = Literal["unknown", "healthy", "degraded", "down"]


class Traffic(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The client's own calls since the previous sample.

    Attributes:
        answered: Number of calls that were answered.
        failed: Number of calls that failed.
        cancelled: Number of calls that their callers cancelled.
        first_tokens: Number of answers that started.
        time_to_first_token_s: Median of their times to the first token, in seconds; None without
            any.
        tokens_per_second: Median rate of the answers that ended; None if none had a rate.
    """

    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    first_tokens: int = 0
    time_to_first_token_s: float | None = None
    tokens_per_second: float | None = None


class Canary(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A completion of a few tokens, to check whether the service can generate.

    Attributes:
        outcome: `answered` or `failed`; `traffic` if none was made because a caller's call was
            answered, which shows the same; `skipped` if it would have delayed callers, or if no
            model is in memory.
        model: Id of the model; empty if no model was called.
        time_to_first_token_s: Seconds to its first text; None unless it was answered.
        tokens_per_second: Its rate; None if it has none.
        detail: Why it failed or was skipped.
        at: Time of the result, in seconds since the epoch.
    """

    outcome: Literal["answered", "failed", "skipped", "traffic"]
    model: str = ""
    time_to_first_token_s: float | None = None
    tokens_per_second: float | None = None
    detail: str = ""
    at: float = 0.0


class HealthSample(HealthStatus, frozen=True, kw_only=True):
    """One check of a monitor: a `HealthStatus` with more measurements.

    For a service that is gone, `service` is its last address.

    Attributes:
        state: The state after this check. It changes only after several checks that agree, while
            `status` is the result of this check alone.
        ready: Whether the service answers, the required models are in memory, and the last canary,
            if canaries are on, was answered.
        pid: The service's process; None if its generation does not report it.
        cpu_percent: CPU time of that process since the previous check, in percent of one core;
            None at the first check, and if this user may not read the process.
        threads: Number of threads of that process; None if this user may not read it. For a 2.x
            service, about the number of connections.
        restarts: How often another process took the place of the previous one.
        traffic: The client's own calls since the previous check.
        canary: The last canary; None before the first, and if canaries are off.
        breaker: The client's circuit breaker for the service.
        limiter: The client's limiter for the service.
        interval_s: Seconds between two checks.
    """

    state: HealthState = "unknown"
    ready: bool = False
    pid: int | None = None
    cpu_percent: float | None = None
    threads: int | None = None
    restarts: int = 0
    traffic: Traffic = Traffic()
    canary: Canary | None = None
    breaker: BreakerStatistics | None = None
    limiter: LimiterStatistics | None = None
    interval_s: float = 0.0


class HealthChanged(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A change of a service's state.

    Attributes:
        old: The previous state; `unknown` at the first change.
        new: The new state.
        since: Time of the first check that found the new state, in seconds since the epoch.
        at: Time of the check that decided the change, in seconds since the epoch.
        reason: What is wrong, or that the service answers again.
        sample: The check that decided the change.
    """

    old: HealthState
    new: HealthState
    since: float
    at: float
    reason: str
    sample: HealthSample
