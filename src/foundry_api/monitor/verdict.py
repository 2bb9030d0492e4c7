"""What a look comes to: healthy, degraded or down, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from foundry_api.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.monitor.looker import Look
    from foundry_api.monitor.sample import Canary
    from foundry_api.resilience.window import BreakerStatistics

__all__ = ["Verdict", "judge"]


class Verdict(NamedTuple):
    """What a look comes to.

    Attributes:
        status: As in `HealthStatus`.
        ready: As in `HealthSample`.
        detail: What is wrong, one thing after the other; empty when healthy.
    """

    status: Literal["healthy", "degraded", "down"]
    ready: bool
    detail: str


def judge(
    look: Look, missing: tuple[str, ...], failure: Canary | None, breaker: BreakerStatistics
) -> Verdict:
    """Judge a look.

    Args:
        look: What it saw.
        missing: Names of wanted models that are not in memory.
        failure: The canary that failed, if none was answered since.
        breaker: The client's circuit breaker for the service.
    """
    if look.error is not None:
        # What answers, though not to this client, is not down: a missing key, a foreign generation.
        down = isinstance(look.error, ServiceError)
        return Verdict("down" if down else "degraded", ready=False, detail=str(look.error))
    wrong = list(_wrong(look, missing, failure, breaker))
    known = look.loaded is not None or not missing
    return Verdict(
        "degraded" if wrong else "healthy", ready=known and not wrong, detail=" ".join(wrong)
    )


def _wrong(
    look: Look, missing: tuple[str, ...], failure: Canary | None, breaker: BreakerStatistics
) -> Iterator[str]:
    if look.loaded_error is not None:
        yield str(look.loaded_error)
    elif look.loaded is not None and missing:
        yield f"Not in memory: {', '.join(missing)}."
    if failure is not None:
        yield f"The canary failed: {failure.detail}"
    # An open breaker whose time is over only waits for the next caller.
    if breaker.state == "open" and breaker.retry_after_s > 0:
        yield "Calls are refused: the circuit breaker is open."
