"""From looks to a state: one odd look changes nothing, and several that agree do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from foundry_api.types.errors import ConfigurationError, ServiceError
from foundry_api.types.values import as_int, format_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.monitor.probe import Look
    from foundry_api.monitor.types import Canary, HealthState
    from foundry_api.resilience.breaker import BreakerStatistics

__all__ = ["Hysteresis", "StateMachine", "Turn", "Verdict", "judge"]


Verdict = Literal["healthy", "degraded", "down"]

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


class Turn(NamedTuple):
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
        self._looks: deque[tuple[Verdict, float]] = deque(maxlen=max(needed))

    def saw(self, verdict: Verdict, at: float) -> Turn | None:
        """Take a look into account; the change that it led to, if any.

        Args:
            verdict: What it saw.
            at: When, in seconds; later than the look before.
        """
        self._looks.append((verdict, at))
        new, belongs = self._settled()
        if new == self.state:
            return None
        turn = Turn(self.state, new, self._first(belongs))
        self.state = new
        return turn

    def _settled(self) -> tuple[HealthState, Callable[[Verdict], bool]]:
        """The state after the looks so far, and what tells the looks that speak for it."""
        needs, rank = self._needs, _RANK[self.state]
        if self._last(needs.down_after, _is_down):
            return "down", _is_down
        if self.state in {"unknown", "healthy"} and self._is_degraded():
            return "degraded", _is_bad
        if self.state == "unknown":
            return ("healthy" if self._last(1, _is_healthy) else "unknown"), _is_healthy

        def is_better(verdict: Verdict) -> bool:
            return _RANK[verdict] < rank

        if self._last(needs.recover_after, is_better):
            return max(self._newest(needs.recover_after), key=_RANK.__getitem__), is_better
        return self.state, is_better

    def _is_degraded(self) -> bool:
        """Without an answer at all it is on its way down, which may take more looks."""
        count = self._needs.degraded_after
        return self._last(count, _is_bad) and not self._last(count, _is_down)

    def _last(self, count: int, belongs: Callable[[Verdict], bool]) -> bool:
        looks = self._newest(count)
        return len(looks) == count and all(map(belongs, looks))

    def _newest(self, count: int) -> list[Verdict]:
        verdicts: list[Verdict] = [verdict for verdict, _ in self._looks]
        return verdicts[-count:]

    def _first(self, belongs: Callable[[Verdict], bool]) -> float:
        since = self._looks[-1][1]
        for verdict, at in reversed(self._looks):
            if not belongs(verdict):
                break
            since = at
        return since


def _is_down(verdict: Verdict) -> bool:
    return verdict == "down"


def _is_bad(verdict: Verdict) -> bool:
    return verdict != "healthy"


def _is_healthy(verdict: Verdict) -> bool:
    return verdict == "healthy"


class VerdictVerdict(NamedTuple):
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
) -> VerdictVerdict:
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
        return VerdictVerdict("down" if down else "degraded", ready=False, detail=str(look.error))
    wrong = list(_wrong(look, missing, failure, breaker))
    known = look.loaded is not None or not missing
    return VerdictVerdict(
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
