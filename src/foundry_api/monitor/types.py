"""What a monitor sees, decides and tells: frozen values."""

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
    """What the client's own calls came to since the sample before.

    Attributes:
        answered: Calls that were answered.
        failed: Calls that failed.
        cancelled: Calls whose callers left.
        first_tokens: Answers that began.
        time_to_first_token_s: Their median, in seconds; None without any.
        tokens_per_second: Median rate of the answers that ended; None without any that had one.
    """

    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    first_tokens: int = 0
    time_to_first_token_s: float | None = None
    tokens_per_second: float | None = None


class Canary(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A completion of a few tokens, made to see whether the service can.

    Attributes:
        outcome: `answered` or `failed`; `traffic` where a caller's answer showed the same, so that
            none was made; `skipped` where making one would have been in callers' way.
        model: Id of the model, or its name; empty where none was asked.
        time_to_first_token_s: Seconds to its first text; None unless it was answered.
        tokens_per_second: Its rate; None where it had none.
        detail: Why it failed or was skipped.
        at: Seconds since the epoch.
    """

    outcome: Literal["answered", "failed", "skipped", "traffic"]
    model: str = ""
    time_to_first_token_s: float | None = None
    tokens_per_second: float | None = None
    detail: str = ""
    at: float = 0.0


class HealthSample(HealthStatus, frozen=True, kw_only=True):
    """One look of a monitor: a `HealthStatus`, and what else it measured.

    Of a service that is gone, `service` is the address that it had last.

    Attributes:
        state: The state after this look. It changes only after several looks that agree, while
            `status` is this look alone.
        ready: Whether the service answers, the wanted models are in memory, and the last canary,
            if there was one, was answered.
        pid: The service's process; None where the generation does not tell.
        cpu_percent: Processor time of that process since the look before, in percent of one core;
            None at the first look, and where the process is not ours to see.
        threads: Threads of that process; None as above. Of a 2.x service about the connections.
        restarts: How often another process was found in the place of the one before.
        traffic: The client's own calls since the look before.
        canary: The last canary; None if none was asked for.
        breaker: The client's circuit breaker for the service.
        limiter: The client's limiter for the service.
        interval_s: Seconds between two looks.
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
    """The state of a service changed.

    Attributes:
        old: The state before; `unknown` at the first change.
        new: The state now.
        since: When the first look saw the new state, in seconds since the epoch.
        at: When so many looks had seen it that it counts, in seconds since the epoch.
        reason: What is wrong; or that it answers again.
        sample: The look that decided it.
    """

    old: HealthState
    new: HealthState
    since: float
    at: float
    reason: str
    sample: HealthSample
