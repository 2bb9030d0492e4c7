"""Decide what follows a failed call: for its line, for the services, or for the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.prompt_reading import DeadlineTooShort
from foundry_api.types import errors
from foundry_api.types.access_errors import QuotaExceeded
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


# What failed: "line": this line; "transient": this attempt; "crash": the service crashed, because
# of this line or another one in flight; "unreachable": no service responds; "overloaded": the
# service has too much to do; "memory": the model does not fit beside the others; "batch": every
# line.
FailureClass = Literal["line", "transient", "crash", "unreachable", "overloaded", "memory", "batch"]

# "fail": the line has failed for good; "requeue": retry it after the waiting lines; "isolate":
# retry it with nothing else in flight; "pause": retry it after a pause of all lines; "reduce":
# retry it with fewer in flight; "wait_for_idle": retry it once nothing is in flight; "stop": end
# the batch.
NextAction = Literal["fail", "requeue", "isolate", "pause", "reduce", "wait_for_idle", "stop"]

# A quota is renewed only the next day or month: the batch is resumed then.
_FATAL = (ClientClosed, ConfigurationError, QuotaExceeded)
_OVERLOADED = (QueueFull, ServiceOverloaded)
_CRASH = (ServiceCrashed, StreamInterrupted)
_UNREACHABLE = (ServiceNotRunning, CircuitOpen, ServiceStartFailed)
# Not all of these are `retryable` within one call, but a later attempt may succeed.
_TRANSIENT = (CallTimeout, CatalogUnavailable, DownloadFailed, ModelLoadFailed, ProtocolError)
_AFFECTS_ALL = (ModelError, HookFailed, *_CRASH)
_PERMANENT = (InvalidRequest, UnsupportedFeature, ModelTaskMismatch)

UNAUTHORIZED, FORBIDDEN = 401, 403

# A million lines must not fail for one reason that all of them share, such as an unknown model:
# after this many such failures without a success between them, the batch ends.
MAX_CONSECUTIVE_FAILURES = 10

BACKOFF = Backoff(base_s=0.2, cap_s=5.0)
MAX_RETRY_AFTER_S = 30.0

# A service that never answered may have another address: it is not waited for as long.
MAX_START_OUTAGE_S = 30.0

_R = TypeVar("_R")


def classify_failure(error: FoundryError) -> FailureClass:
    # A key that is refused for one line is refused for all.
    if isinstance(error, _FATAL) or error.status == UNAUTHORIZED:
        return "batch"
    if isinstance(error, _OVERLOADED):
        return "overloaded"
    if isinstance(error, _CRASH):
        return "crash"
    if isinstance(error, _UNREACHABLE):
        return "unreachable"
    if isinstance(error, MemoryBudgetExceeded):
        return "memory"
    if isinstance(error, DeadlineTooShort):  # though a CallTimeout: it does not depend on chance
        return "line"
    return "transient" if error.retryable or isinstance(error, _TRANSIENT) else "line"


def next_action(state: TaskState[Any], error: FoundryError, max_attempts: int) -> NextAction:
    """Record a failed attempt in the task's state, and return what follows."""
    match classify_failure(error):
        case "batch":
            return "stop"
        case "overloaded":
            return "reduce"
        case "unreachable":
            return "pause"
        case "memory":
            # Alone with its model it failed for good: nothing else could be unloaded.
            return "wait_for_idle" if state.ran_with_other_models else "fail"
        case "crash":
            # A line is blamed for a crash only if nothing else was in flight: each line that was
            # there is retried alone, until one is found to crash the service. The causes include
            # the attempts that the client made within this call.
            if state.ran_alone:
                state.crashes += sum(isinstance(cause, _CRASH) for cause in error.causes)
            return "fail" if state.crashes >= max_attempts else "isolate"
        case "transient":
            if state.service_unreachable:
                return "pause"
            state.transient_failures += 1
            return "fail" if state.transient_failures >= max_attempts else "requeue"
        case "line":
            return "fail"


def affects_all_lines(error: FoundryError) -> bool:
    """Return whether every line might fail with the same error."""
    return isinstance(error, _AFFECTS_ALL) or error.status == FORBIDDEN


def is_permanent_failure(code: str) -> bool:
    """Return whether an unchanged line fails again; `code` is the name of its error's type."""
    error_type = getattr(errors, code, None)
    return isinstance(error_type, type) and issubclass(error_type, _PERMANENT)


def is_service_fault(error: FoundryError) -> bool:
    """Return whether the error concerns the lines of all models alike."""
    return isinstance(error, _CRASH)


class WithheldFailures(Generic[_R]):
    """Withholds failures that might affect all lines, until a line succeeds or the batch ends."""

    def __init__(self) -> None:
        self._withheld: list[_R] = []
        self._error_type: type[FoundryError] | None = None

    def add(self, error: FoundryError, result: _R) -> list[_R]:
        """Withhold a failure; return earlier ones of another type. Raises the error if too many."""
        released = self.release() if self._error_type not in {None, type(error)} else []
        self._error_type = type(error)
        self._withheld.append(result)
        if len(self._withheld) >= MAX_CONSECUTIVE_FAILURES:
            raise error
        return released

    def release(self) -> list[_R]:
        """Return the withheld failures: they concern only their own lines."""
        withheld, self._withheld, self._error_type = self._withheld, [], None
        return withheld


class Outage:
    """Computes the pauses while services are unreachable, and gives up after `max_outage_s`."""

    def __init__(
        self, max_outage_s: float, monotonic: Callable[[], float], backoff: Backoff = BACKOFF
    ) -> None:
        self._max_outage_s = max_outage_s
        self._monotonic = monotonic
        self._backoff = backoff
        self._started_at: float | None = None
        self._pauses = 0
        self._has_answered = False

    @property
    def is_first_pause(self) -> bool:
        return self._pauses <= 1

    def on_answered(self) -> None:
        """A service answered a line."""
        self._has_answered = True
        self.on_reached()

    def on_reached(self) -> None:
        """A service responded, with an answer or an error."""
        self._started_at = None
        self._pauses = 0

    def next_pause_s(self, error: FoundryError) -> float:
        """Return the seconds until the next attempt. Raises the error after too long an outage."""
        now = self._monotonic()
        if self._started_at is None:
            self._started_at = now
        max_outage_s = self._max_outage_s
        if not self._has_answered:
            max_outage_s = min(max_outage_s, MAX_START_OUTAGE_S)
        outage_s = now - self._started_at
        remaining_s = max_outage_s - outage_s
        # An engine that cannot even be started the first time is not worth waiting for.
        cannot_start = isinstance(error, ServiceStartFailed) and not self._has_answered
        if remaining_s <= 0 or cannot_start:
            if outage_s > 0:
                error.hint = f"It was unreachable for {outage_s:.0f} s. {error.hint}"
            raise error
        self._pauses += 1
        requested_s = 0.0
        if isinstance(error, CircuitOpen | ServiceOverloaded):
            requested_s = min(error.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
        return min(max(requested_s, self._backoff.delay_s(self._pauses)), remaining_s)
