"""What a failed call says: of its line, of the services, or of the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from foundry_api import errors
from foundry_api.errors import (
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
    from foundry_api.batch.task import Ticket

__all__ = ["Step", "Verdict", "is_for_all", "is_hopeless", "is_of_service", "next_step", "verdict"]

Verdict = Literal["line", "again", "death", "away", "busy", "room", "batch"]
"""Of a failure: it is the line's own; another try may succeed; the service died of this line or of
another one; there is no service; it has too much to do; another model is in the way; no line can be
answered."""

Step = Literal["fail", "later", "alone", "pause", "fewer", "drain", "stop"]
"""After a failure: the line has failed for good; it is tried again when its turn comes; with
nothing else in flight; after a pause for all; with fewer at once; once what is in flight has ended;
or never, nor any other."""

_BATCH = (ClientClosed, ConfigurationError)
_BUSY = (QueueFull, ServiceOverloaded)
_DEATH = (ServiceCrashed, StreamInterrupted)
_AWAY = (ServiceNotRunning, CircuitOpen, ServiceStartFailed)
_PASSING = (CallTimeout, CatalogUnavailable, DownloadFailed, ModelLoadFailed, ProtocolError)
_FOR_ALL = (ModelError, HookFailed, *_DEATH)

_HOPELESS = (InvalidRequest, UnsupportedFeature, ModelTaskMismatch)

UNAUTHORIZED, FORBIDDEN = 401, 403


def verdict(error: FoundryError) -> Verdict:
    """What a failed call says."""
    if isinstance(error, _BATCH) or error.status == UNAUTHORIZED:
        return "batch"
    if isinstance(error, _BUSY):
        return "busy"
    if isinstance(error, _DEATH):
        return "death"
    if isinstance(error, _AWAY):
        return "away"
    if isinstance(error, MemoryBudgetExceeded):
        return "room"
    return "again" if error.retryable or isinstance(error, _PASSING) else "line"


def next_step(ticket: Ticket[Any], error: FoundryError, attempts: int) -> Step:
    """What follows the failure of a try.

    A line is blamed for the death of a service only where nothing else was in flight: whoever was
    there at a death is tried alone until it is cleared or convicted.

    Args:
        ticket: Of the line; it is told of the failure.
        error: Why the try failed.
        attempts: How often it may fail for a passing reason, or the service die of it.
    """
    said = verdict(error)
    if said == "away" or (said == "again" and ticket.unreached):
        return "pause"
    if said == "death":
        ticket.deaths += _deaths(error) if ticket.alone else 0
        return "fail" if ticket.deaths >= attempts else "alone"
    if said == "again":
        ticket.tries += 1
        return "fail" if ticket.tries >= attempts else "later"
    if said == "room":
        return "drain" if ticket.mixed else "fail"
    return _ALWAYS[said]


_ALWAYS: dict[Verdict, Step] = {"line": "fail", "busy": "fewer", "batch": "stop"}


def is_for_all(error: FoundryError) -> bool:
    """Whether every line might fail of the same."""
    return isinstance(error, _FOR_ALL) or error.status == FORBIDDEN


def is_hopeless(code: str) -> bool:
    """Whether a line that failed so fails again, however often it is asked as it is.

    Args:
        code: The name of the error's type, as the error file has it.
    """
    kind = getattr(errors, code, None)
    return isinstance(kind, type) and issubclass(kind, _HOPELESS)


def is_of_service(error: FoundryError) -> bool:
    """Whether it fails all models' lines alike."""
    return isinstance(error, _DEATH)


def _deaths(error: FoundryError) -> int:
    """How often the service died under a call, with the attempts that the client made by itself."""
    return sum(isinstance(cause, _DEATH) for cause in error.causes)
