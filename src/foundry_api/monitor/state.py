"""From looks to a state: one odd look changes nothing, and several that agree do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from foundry_api.types.errors import ConfigurationError, ServiceError
from foundry_api.types.values import as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.monitor.probe import ProbeResult
    from foundry_api.monitor.types import Canary, HealthState
    from foundry_api.resilience.breaker import BreakerStatistics

__all__ = ["Hysteresis", "StateMachine", "Status", "Transition", "evaluate"]


Status = Literal["healthy", "degraded", "down"]

_RANK = {"healthy": 0, "degraded": 1, "down": 2, "unknown": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hysteresis:
    """How many looks in a row it takes to change the state of a service.

    Attributes:
        down_after: Looks without an answer until it is down.
        degraded_after: Looks that are not healthy, though not all without an answer, until it is
            degraded.
        recover_after: Better looks until the state is better. The first look of all that is healthy
            counts at once.
    """

    down_after: int = 2
    degraded_after: int = 3
    recover_after: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot work, with the name of the setting."""
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
    """A change of state.

    Attributes:
        old: The state before.
        new: The state now.
        since: When the first of the looks was made that led to it.
    """

    old: HealthState
    new: HealthState
    since: float


class StateMachine:
    """The state of a service, from one look after the other.

    Args:
        hysteresis: How many looks it takes.

    Attributes:
        state: The state now; `unknown` until the looks agree.
    """

    def __init__(self, hysteresis: Hysteresis) -> None:
        self.state: HealthState = "unknown"
        self._needs = hysteresis
        needed = (hysteresis.down_after, hysteresis.degraded_after, hysteresis.recover_after)
        self._statuses: deque[tuple[Status, float]] = deque(maxlen=max(needed))

    def update(self, status: Status, at: float) -> Transition | None:
        """Take a look into account; the change that it led to, if any.

        Args:
            status: What it saw.
            at: When, in seconds; later than the look before.
        """
        self._statuses.append((status, at))
        new, matches = self._next_state()
        if new == self.state:
            return None
        transition = Transition(self.state, new, self._get_first_time(matches))
        self.state = new
        return transition

    def _next_state(self) -> tuple[HealthState, Callable[[Status], bool]]:
        """The state after the looks so far, and what tells the looks that speak for it."""
        needs, rank = self._needs, _RANK[self.state]
        if self._all_last(needs.down_after, _is_down):
            return "down", _is_down
        if self.state in {"unknown", "healthy"} and self._is_degraded():
            return "degraded", _is_bad
        if self.state == "unknown":
            return ("healthy" if self._all_last(1, _is_healthy) else "unknown"), _is_healthy

        def is_better(status: Status) -> bool:
            return _RANK[status] < rank

        if self._all_last(needs.recover_after, is_better):
            return max(self._get_newest(needs.recover_after), key=_RANK.__getitem__), is_better
        return self.state, is_better

    def _is_degraded(self) -> bool:
        """Without an answer at all it is on its way down, which may take more looks."""
        count = self._needs.degraded_after
        return self._all_last(count, _is_bad) and not self._all_last(count, _is_down)

    def _all_last(self, count: int, matches: Callable[[Status], bool]) -> bool:
        newest = self._get_newest(count)
        return len(newest) == count and all(map(matches, newest))

    def _get_newest(self, count: int) -> list[Status]:
        statuses: list[Status] = [status for status, _ in self._statuses]
        return statuses[-count:]

    def _get_first_time(self, matches: Callable[[Status], bool]) -> float:
        since = self._statuses[-1][1]
        for status, at in reversed(self._statuses):
            if not matches(status):
                break
            since = at
        return since


def _is_down(status: Status) -> bool:
    return status == "down"


def _is_bad(status: Status) -> bool:
    return status != "healthy"


def _is_healthy(status: Status) -> bool:
    return status == "healthy"


class Evaluation(NamedTuple):
    """What a look comes to.

    Attributes:
        status: As in `HealthStatus`.
        ready: As in `HealthSample`.
        detail: What is wrong, one thing after the other; empty when healthy.
    """

    status: Literal["healthy", "degraded", "down"]
    ready: bool
    detail: str


def evaluate(
    result: ProbeResult,
    missing: tuple[str, ...],
    failure: Canary | None,
    breaker: BreakerStatistics,
) -> Evaluation:
    """Judge a look.

    Args:
        result: What it saw.
        missing: Names of wanted models that are not in memory.
        failure: The canary that failed, if none was answered since.
        breaker: The client's circuit breaker for the service.
    """
    if result.error is not None:
        # What answers, though not to this client, is not down: a missing key, a foreign generation.
        down = isinstance(result.error, ServiceError)
        return Evaluation("down" if down else "degraded", ready=False, detail=str(result.error))
    problems = list(_find_problems(result, missing, failure, breaker))
    models_known = result.loaded is not None or not missing
    return Evaluation(
        "degraded" if problems else "healthy",
        ready=models_known and not problems,
        detail=" ".join(problems),
    )


def _find_problems(
    result: ProbeResult,
    missing: tuple[str, ...],
    failure: Canary | None,
    breaker: BreakerStatistics,
) -> Iterator[str]:
    if result.loaded_error is not None:
        yield str(result.loaded_error)
    elif result.loaded is not None and missing:
        yield f"Not in memory: {', '.join(missing)}."
    if failure is not None:
        yield f"The canary failed: {failure.detail}"
    # An open breaker whose time is over only waits for the next caller.
    if breaker.state == "open" and breaker.retry_after_s > 0:
        yield "Calls are refused: the circuit breaker is open."
