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

    from foundry_api.batch.task import Ticket

__all__ = [
    "IN_A_ROW",
    "Doubt",
    "Outage",
    "Step",
    "Verdict",
    "is_for_all",
    "is_hopeless",
    "is_of_service",
    "next_step",
    "verdict",
]


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


_R = TypeVar("_R")

IN_A_ROW = 10
"""So many lines without an answer between them fail of what all would fail of."""


class Doubt(Generic[_R]):
    """Holds failures back until it is clear whose they are.

    A model that nobody knows fails every line that names it, and an engine that dies of any line
    dies of all: a million lines must not be written off for that.
    """

    def __init__(self) -> None:
        self._held: list[_R] = []
        self._kind: type[FoundryError] | None = None

    def failed(self, error: FoundryError, result: _R) -> list[_R]:
        """A line failed of what might be of all. Gives the failures that are the lines' own.

        Raises:
            FoundryError: The error, if too many have failed of it in a row.
        """
        released = self.release() if self._kind not in {None, type(error)} else []
        self._kind = type(error)
        self._held.append(result)
        if len(self._held) >= IN_A_ROW:
            raise error
        return released

    def release(self) -> list[_R]:
        """Another line was answered, or there are no more: the failures were the lines' own."""
        held, self._held, self._kind = self._held, [], None
        return held


BACKOFF = Backoff(base_s=0.2, cap_s=5.0)
LONGEST_ASKED_S = 30.0

START_PATIENCE_S = 30.0
"""A service that was never there may have another address: that is not waited for as long."""


class Outage:
    """Tells how long to wait until the next call is tried, and when to wait no more.

    Args:
        patience_s: Seconds that all services may be away.
        clock: Seconds of a monotonic clock.
        backoff: Between two tries.
    """

    def __init__(
        self, patience_s: float, clock: Callable[[], float], backoff: Backoff = BACKOFF
    ) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._backoff = backoff
        self._began: float | None = None
        self._tries = 0
        self._answered = False

    @property
    def is_new(self) -> bool:
        """Whether there was one pause at most since a service was there."""
        return self._tries <= 1

    def ended(self) -> None:
        """A service gave an answer."""
        self._answered = True
        self.reached()

    def reached(self) -> None:
        """A service is there, whatever it said."""
        self._began = None
        self._tries = 0

    def pause_s(self, error: FoundryError) -> float:
        """Seconds until the next try.

        Args:
            error: What the last try came to.

        Raises:
            FoundryError: The error, if the services were away for too long. An engine that cannot
                even be started the first time is not waited for.
        """
        now = self._clock()
        began = self._began = now if self._began is None else self._began
        left_s = began + self._patience - now
        if left_s <= 0 or (isinstance(error, ServiceStartFailed) and not self._answered):
            raise self._told(error, now - began)
        self._tries += 1
        pause_s = max(_asked_s(error), self._backoff.delay_s(self._tries))
        return min(pause_s, left_s)

    @property
    def _patience(self) -> float:
        return self._patience_s if self._answered else min(self._patience_s, START_PATIENCE_S)

    def _told(self, error: FoundryError, away_s: float) -> FoundryError:
        if away_s:
            error.hint = f"It was away for {away_s:.0f} s. {error.hint}"
        return error


def _asked_s(error: FoundryError) -> float:
    """How long the service, or the breaker in front of it, wants to be left alone."""
    if not isinstance(error, CircuitOpen | ServiceOverloaded):
        return 0.0
    return min(error.retry_after_s or 0.0, LONGEST_ASKED_S)
