"""Turns the results of checks into the state of a service."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from foundry_api.types.errors import ConfigurationError, ServiceError
from foundry_api.types.values import as_int, format_value

if TYPE_CHECKING:
    from foundry_api.monitor.probe import ProbeResult
    from foundry_api.monitor.types import Canary, HealthState
    from foundry_api.resilience.breaker import BreakerStatistics

__all__ = ["Hysteresis", "StateMachine", "Status", "Transition", "evaluate"]


Status = Literal["healthy", "degraded", "down"]

_STATUSES: tuple[Status, ...] = ("healthy", "degraded", "down")  # from best to worst
_RANK = {"healthy": 0, "degraded": 1, "down": 2, "unknown": 3}
_HEALTHY: frozenset[Status] = frozenset({"healthy"})
_NOT_HEALTHY: frozenset[Status] = frozenset({"degraded", "down"})
_DOWN: frozenset[Status] = frozenset({"down"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hysteresis:
    """How many checks in a row it takes to change the state of a service.

    Attributes:
        down_after: Checks without an answer until it is `down`; default 2.
        degraded_after: Checks that are not healthy, of which at least one was answered, until it
            is `degraded`; default 3.
        recover_after: Better checks until the state improves; default 2. The first healthy check of
            a monitor counts at once.

    Raises:
        ConfigurationError: A number is not a whole number of 1 or more.
    """

    down_after: int = 2
    degraded_after: int = 3
    recover_after: int = 2

    def __post_init__(self) -> None:
        for name in ("down_after", "degraded_after", "recover_after"):
            value = getattr(self, name)
            number = as_int(value)
            if number is None or number < 1:
                raise ConfigurationError(
                    f"the monitor's {name} is {format_value(value)}",
                    hint="Give a whole number, 1 or more.",
                )
            object.__setattr__(self, name, number)


class Transition(NamedTuple):
    """A change of state, and the time of the first check that led to it."""

    old: HealthState
    new: HealthState
    since: float


class StateMachine:
    """Follows the state of a service, which is `unknown` until the first checks agree."""

    def __init__(self, hysteresis: Hysteresis) -> None:
        self.state: HealthState = "unknown"
        self._hysteresis = hysteresis
        counts = (hysteresis.down_after, hysteresis.degraded_after, hysteresis.recover_after)
        self._statuses: deque[tuple[Status, float]] = deque(maxlen=max(counts))

    def update(self, status: Status, at: float) -> Transition | None:
        """Record the status of a check and return the change that it led to, if any."""
        self._statuses.append((status, at))
        new, supporting = self._find_next()
        if new == self.state:
            return None
        since = at
        for earlier_status, earlier_at in reversed(self._statuses):
            if earlier_status not in supporting:
                break
            since = earlier_at
        transition = Transition(self.state, new, since)
        self.state = new
        return transition

    def _find_next(self) -> tuple[HealthState, frozenset[Status]]:
        """Return the state after the last checks, and the statuses that support it."""
        needs = self._hysteresis
        if self._all_last(needs.down_after, _DOWN):
            return "down", _DOWN
        if (
            self.state in {"unknown", "healthy"}
            and self._all_last(needs.degraded_after, _NOT_HEALTHY)
            # With no answer at all it becomes `down`, which may take more checks.
            and not self._all_last(needs.degraded_after, _DOWN)
        ):
            return "degraded", _NOT_HEALTHY
        if self.state == "unknown":
            return ("healthy" if self._all_last(1, _HEALTHY) else "unknown"), _HEALTHY
        better = frozenset(_STATUSES[: _RANK[self.state]])
        if self._all_last(needs.recover_after, better):
            # The worst of the better statuses, so that one healthy check is not enough.
            newest = self._get_newest(needs.recover_after)
            return max(newest, key=_RANK.__getitem__), better
        return self.state, better

    def _all_last(self, count: int, statuses: frozenset[Status]) -> bool:
        newest = self._get_newest(count)
        return len(newest) == count and statuses.issuperset(newest)

    def _get_newest(self, count: int) -> list[Status]:
        statuses: list[Status] = [status for status, _ in self._statuses]
        return statuses[-count:]


class Evaluation(NamedTuple):
    """The evaluation of a check, with the meaning of `HealthSample`'s attributes."""

    status: Status
    ready: bool
    detail: str


def evaluate(
    result: ProbeResult,
    missing: tuple[str, ...],
    failure: Canary | None,
    breaker: BreakerStatistics,
) -> Evaluation:
    """Evaluate a check.

    `missing` are the required models that are not in memory, and `failure` is the last canary if it
    failed.
    """
    if result.error is not None:
        # A service that answers but refuses this client is not down, such as with a missing key or
        # an unknown generation.
        down = isinstance(result.error, ServiceError)
        return Evaluation("down" if down else "degraded", ready=False, detail=str(result.error))
    problems: list[str] = []
    if result.status is not None and result.status.problem:
        problems.append(f"{result.status.problem}.")
    if result.loaded_error is not None:
        problems.append(str(result.loaded_error))
    elif result.loaded is not None and missing:
        problems.append(f"Not in memory: {', '.join(missing)}.")
    if failure is not None:
        problems.append(f"The canary failed: {failure.detail}")
    # Once its time is over, an open breaker lets the next call through.
    if breaker.state == "open" and breaker.retry_after_s > 0:
        problems.append("Calls are refused: the circuit breaker is open.")
    models_known = result.loaded is not None or not missing
    return Evaluation(
        "degraded" if problems else "healthy",
        ready=models_known and not problems,
        detail=" ".join(problems),
    )
