"""What a failed call says: of its line, of the services, or of the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from foundry_api.resilience.backoff import Backoff
from foundry_api.types import errors
from foundry_api.types.errors import (
    CallTimeout,
    CatalogUnavailable,
    CircuitOpen,
    ClientClosed,
    ConfigurationError,
    DownloadFailed,
    FoundryError,
    HookFailed,
    InvalidRequest,
    MemoryBudgetExceeded,
    ModelError,
    ModelLoadFailed,
    ModelTaskMismatch,
    ProtocolError,
    QueueFull,
    ServiceCrashed,
    ServiceNotRunning,
    ServiceOverloaded,
    ServiceStartFailed,
    StreamInterrupted,
    UnsupportedFeature,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.batch.task import TaskState

__all__ = [
    "MAX_CONSECUTIVE_FAILURES",
    "FailureClass",
    "NextAction",
    "Outage",
    "WithheldFailures",
    "affects_all_lines",
    "classify_failure",
    "is_permanent_failure",
    "is_service_fault",
    "next_action",
]


FailureClass = Literal["line", "again", "death", "away", "busy", "room", "batch"]
"""Of a failure: it is the line's own; another try may succeed; the service died of this line or of
another one; there is no service; it has too much to do; another model is in the way; no line can be
answered."""

NextAction = Literal["fail", "requeue", "isolate", "pause", "reduce", "drain", "stop"]
"""After a failure: the line has failed for good; it is tried again when its turn comes; with
nothing else in flight; after a pause for all; with fewer at once; once what is in flight has ended;
or never, nor any other."""

_FATAL = (ClientClosed, ConfigurationError)
_BUSY = (QueueFull, ServiceOverloaded)
_CRASH = (ServiceCrashed, StreamInterrupted)
_UNREACHABLE = (ServiceNotRunning, CircuitOpen, ServiceStartFailed)
_TRANSIENT = (CallTimeout, CatalogUnavailable, DownloadFailed, ModelLoadFailed, ProtocolError)
_AFFECTS_ALL = (ModelError, HookFailed, *_CRASH)

_PERMANENT = (InvalidRequest, UnsupportedFeature, ModelTaskMismatch)

UNAUTHORIZED, FORBIDDEN = 401, 403


def classify_failure(error: FoundryError) -> FailureClass:
    """What a failed call says."""
    if isinstance(error, _FATAL) or error.status == UNAUTHORIZED:
        return "batch"
    if isinstance(error, _BUSY):
        return "busy"
    if isinstance(error, _CRASH):
        return "death"
    if isinstance(error, _UNREACHABLE):
        return "away"
    if isinstance(error, MemoryBudgetExceeded):
        return "room"
    return "again" if error.retryable or isinstance(error, _TRANSIENT) else "line"


def next_action(state: TaskState[Any], error: FoundryError, max_attempts: int) -> NextAction:
    """What follows the failure of a try.

    A line is blamed for the death of a service only where nothing else was in flight: whoever was
    there at a death is tried alone until it is cleared or convicted.

    Args:
        state: Of the line; it is told of the failure.
        error: Why the try failed.
        max_attempts: How often it may fail for a passing reason, or the service die of it.
    """
    failure_class = classify_failure(error)
    if failure_class == "away" or (failure_class == "again" and state.service_unreachable):
        return "pause"
    if failure_class == "death":
        state.crashes += _count_crashes(error) if state.ran_alone else 0
        return "fail" if state.crashes >= max_attempts else "isolate"
    if failure_class == "again":
        state.tries += 1
        return "fail" if state.tries >= max_attempts else "requeue"
    if failure_class == "room":
        return "drain" if state.ran_with_other_models else "fail"
    return _FIXED_ACTIONS[failure_class]


_FIXED_ACTIONS: dict[FailureClass, NextAction] = {"line": "fail", "busy": "reduce", "batch": "stop"}


def affects_all_lines(error: FoundryError) -> bool:
    """Whether every line might fail of the same."""
    return isinstance(error, _AFFECTS_ALL) or error.status == FORBIDDEN


def is_permanent_failure(code: str) -> bool:
    """Whether a line that failed so fails again, however often it is asked as it is.

    Args:
        code: The name of the error's type, as the error file has it.
    """
    kind = getattr(errors, code, None)
    return isinstance(kind, type) and issubclass(kind, _PERMANENT)


def is_service_fault(error: FoundryError) -> bool:
    """Whether it fails all models' lines alike."""
    return isinstance(error, _CRASH)


def _count_crashes(error: FoundryError) -> int:
    """How often the service died under a call, with the attempts that the client made by itself."""
    return sum(isinstance(cause, _CRASH) for cause in error.causes)


_R = TypeVar("_R")

MAX_CONSECUTIVE_FAILURES = 10
"""So many lines without an answer between them fail of what all would fail of."""


class WithheldFailures(Generic[_R]):
    """Holds failures back until it is clear whose they are.

    A model that nobody knows fails every line that names it, and an engine that dies of any line
    dies of all: a million lines must not be written off for that.
    """

    def __init__(self) -> None:
        self._withheld: list[_R] = []
        self._error_type: type[FoundryError] | None = None

    def add(self, error: FoundryError, result: _R) -> list[_R]:
        """A line failed of what might be of all. Gives the failures that are the lines' own.

        Raises:
            FoundryError: The error, if too many have failed of it in a row.
        """
        released = self.release() if self._error_type not in {None, type(error)} else []
        self._error_type = type(error)
        self._withheld.append(result)
        if len(self._withheld) >= MAX_CONSECUTIVE_FAILURES:
            raise error
        return released

    def release(self) -> list[_R]:
        """Another line was answered, or there are no more: the failures were the lines' own."""
        withheld, self._withheld, self._error_type = self._withheld, [], None
        return withheld


BACKOFF = Backoff(base_s=0.2, cap_s=5.0)
MAX_RETRY_AFTER_S = 30.0

MAX_START_OUTAGE_S = 30.0
"""A service that was never there may have another address: that is not waited for as long."""


class Outage:
    """Tells how long to wait until the next call is tried, and when to wait no more.

    Args:
        patience_s: Seconds that all services may be away.
        clock: Seconds of a monotonic clock.
        backoff: Between two tries.
    """

    def __init__(
        self, max_outage_s: float, monotonic: Callable[[], float], backoff: Backoff = BACKOFF
    ) -> None:
        self._max_outage_s = max_outage_s
        self._monotonic = monotonic
        self._backoff = backoff
        self._started_at: float | None = None
        self._tries = 0
        self._has_answered = False

    @property
    def is_new(self) -> bool:
        """Whether there was one pause at most since a service was there."""
        return self._tries <= 1

    def reset(self) -> None:
        """A service gave an answer."""
        self._has_answered = True
        self.on_reached()

    def on_reached(self) -> None:
        """A service is there, whatever it said."""
        self._started_at = None
        self._tries = 0

    def next_pause_s(self, error: FoundryError) -> float:
        """Seconds until the next try.

        Args:
            error: What the last try came to.

        Raises:
            FoundryError: The error, if the services were away for too long. An engine that cannot
                even be started the first time is not waited for.
        """
        now = self._monotonic()
        started_at = self._started_at = now if self._started_at is None else self._started_at
        remaining_s = started_at + self._allowed_outage_s - now
        if remaining_s <= 0 or (isinstance(error, ServiceStartFailed) and not self._has_answered):
            raise self._add_outage_hint(error, now - started_at)
        self._tries += 1
        pause_s = max(_requested_pause_s(error), self._backoff.delay_s(self._tries))
        return min(pause_s, remaining_s)

    @property
    def _allowed_outage_s(self) -> float:
        return (
            self._max_outage_s
            if self._has_answered
            else min(self._max_outage_s, MAX_START_OUTAGE_S)
        )

    def _add_outage_hint(self, error: FoundryError, away_s: float) -> FoundryError:
        if away_s:
            error.hint = f"It was away for {away_s:.0f} s. {error.hint}"
        return error


def _requested_pause_s(error: FoundryError) -> float:
    """How long the service, or the breaker in front of it, wants to be left alone."""
    if not isinstance(error, CircuitOpen | ServiceOverloaded):
        return 0.0
    return min(error.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
