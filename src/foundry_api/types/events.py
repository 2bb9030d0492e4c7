"""The events of a client, and the bus to subscribe to them.

    client.events.subscribe(print)

A listener is called in the task that makes the call, so it must not block. Logs, metrics and traces
(`foundry_api.observe`) are listeners too.

The events of a call are: `CallStarted`; for each attempt `AttemptStarted`, `FirstToken` if there is
text, and `RetryScheduled` if another attempt follows; and always `CallEnded`. With a cache,
`CacheMiss` precedes them and `CacheStored` follows them. A call that is answered from the cache has
`CallStarted`, `CacheHit` and `CallEnded`. `BreakerChanged`, `ModelLoaded` and `ModelUnloaded`
belong to a service, not to a call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from foundry_api.types.errors import FoundryError
from foundry_api.types.messages import AttemptRecord, ChatRequest, FinishReason, Timings, Usage
from foundry_api.types.serialization import Result

__all__ = [
    "AttemptStarted",
    "BreakerChanged",
    "BreakerState",
    "CacheHit",
    "CacheMiss",
    "CacheSource",
    "CacheStored",
    "CacheTrouble",
    "CallEnded",
    "CallStarted",
    "Event",
    "EventBus",
    "FirstToken",
    "Listener",
    "ModelLoaded",
    "ModelUnloaded",
    "OperationName",
    "Outcome",
    "RetryScheduled",
    "UnloadReason",
]

BreakerState = Literal["closed", "open", "half-open"]
OperationName = Literal["chat", "embeddings", "transcription", "response", "request"]
Outcome = Literal["answered", "failed", "cancelled"]
CacheSource = Literal["cache", "flight"]
UnloadReason = Literal["requested", "idle", "budget", "swap"]

log = logging.getLogger("foundry_api")


class Event(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The base class of all events. Its `repr` contains no prompts or answers."""

    def __repr__(self) -> str:
        fields = (
            f"{name}={value!r}"
            for name in self.__struct_fields__
            if name not in _PRIVATE and (value := getattr(self, name)) is not None
        )
        return f"{type(self).__name__}({', '.join(fields)})"


_PRIVATE = {"request", "content"}


class CallStarted(Event, frozen=True, kw_only=True):
    """A call started.

    Attributes:
        call: Number of the call in its client, from 1.
        model: The model's name as the caller gave it; for a plain request, its method and path.
        request: The chat request with the prompt; None for other operations.
        operation: The kind of call.
    """

    call: int
    model: str
    request: ChatRequest | None
    operation: OperationName = "chat"


class AttemptStarted(Event, frozen=True, kw_only=True):
    """An HTTP request is sent for a call.

    Attributes:
        call: Number of the call.
        attempt: Number of the attempt, from 1.
        model: Id of the model.
        service: Base URL of the service.
        queued_s: Seconds that this attempt was queued.
    """

    call: int
    attempt: int
    model: str
    service: str
    queued_s: float


class FirstToken(Event, frozen=True, kw_only=True):
    """The first text of an answer was received.

    Attributes:
        call: Number of the call.
        attempt: Number of the attempt.
        model: Id of the model.
        service: Base URL of the service.
        time_to_first_token_s: Seconds since the attempt's request was sent.
    """

    call: int
    attempt: int
    model: str
    service: str
    time_to_first_token_s: float


class RetryScheduled(Event, frozen=True, kw_only=True):
    """An attempt failed, and another one follows.

    Attributes:
        call: Number of the call.
        attempt: Number of the failed attempt.
        model: Id of the model; the name that the caller gave if no id was found.
        service: Base URL of the service; None if none was found.
        error: The error of the attempt.
        delay_s: Seconds until the next attempt.
    """

    call: int
    attempt: int
    model: str
    service: str | None
    error: FoundryError
    delay_s: float


class CallEnded(Event, frozen=True, kw_only=True):
    """A call ended: with an answer, with an error, or by cancellation.

    Attributes:
        call: Number of the call.
        outcome: `answered`, `failed` or `cancelled`.
        model: Id of the model; the name that the caller gave if no id was found.
        service: Base URL of the last service tried; None if none was found.
        attempts: The HTTP requests, with the errors of the failed ones.
        timings: Durations of the call.
        usage: Tokens as counted by the service; None without a complete answer.
        finish_reason: Why the answer ended; None without a complete answer.
        error: The error raised to the caller; None unless the call failed.
        chunks: Number of text chunks received.
        content: The text received.
        operation: The kind of call.
        cached: Whether the answer is that of another call, earlier or concurrent.
    """

    call: int
    outcome: Outcome
    model: str
    service: str | None
    attempts: tuple[AttemptRecord, ...]
    timings: Timings
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    error: FoundryError | None = None
    chunks: int = 0
    content: str = ""
    operation: OperationName = "chat"
    cached: bool = False


class BreakerChanged(Event, frozen=True, kw_only=True):
    """The circuit breaker of a service changed its state.

    Attributes:
        service: The service's base URL, or a placeholder before it was found.
        old: The previous state.
        new: The new state.
        retry_after_s: Seconds until the breaker allows a trial call; 0 unless `new` is `open`.
    """

    service: str
    old: BreakerState
    new: BreakerState
    retry_after_s: float = 0.0


class ModelLoaded(Event, frozen=True, kw_only=True):
    """This client loaded a model.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
        duration_s: Seconds that loading took.
        size_mb: Size of the model's files; None if unknown.
    """

    model: str
    service: str
    duration_s: float
    size_mb: float | None = None


class ModelUnloaded(Event, frozen=True, kw_only=True):
    """This client unloaded a model. The engine may not return its memory to the system.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
        reason: `requested` by the caller, `idle` for `keep_alive_s`, to keep the memory `budget`,
            or to `swap` it for another model.
    """

    model: str
    service: str
    reason: UnloadReason


class CacheHit(Event, frozen=True, kw_only=True):
    """A call was answered without the engine.

    Attributes:
        call: Number of the call.
        model: Id of the model that generated the answer.
        service: Base URL of the service that generated the answer.
        source: The `cache`, or a `flight`: an identical call in progress.
        age_s: Age of the answer in seconds; 0 for one in flight.
    """

    call: int
    model: str
    service: str
    source: CacheSource
    age_s: float = 0.0


class CacheMiss(Event, frozen=True, kw_only=True):
    """The cache had no answer to a call, so the call goes to the engine.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
    """

    model: str
    service: str


class CacheStored(Event, frozen=True, kw_only=True):
    """An answer was stored in the cache.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
        bytes: Size of the answer in the cache.
    """

    model: str
    service: str
    bytes: int


class CacheTrouble(Event, frozen=True, kw_only=True):
    """The cache's file is unusable. Calls continue.

    Attributes:
        path: The file.
        problem: The cause.
        backup_path: Where the file was moved, after which a new one was created; None if calls
            continue without a cache.
    """

    path: str
    problem: str
    backup_path: str | None = None


Listener = Callable[[Event], None]


class EventBus:
    """Sends the events of a client to its listeners.

    Args:
        listeners: Listeners for all events.

    Attributes:
        observed_types: The event types that have a listener. Others need not be created.
    """

    def __init__(self, *listeners: Listener) -> None:
        self.observed_types: set[type[Event]] = set()
        self._listeners: dict[type[Event], tuple[Listener, ...]] = {}
        for listener in listeners:
            self.subscribe(listener)

    def subscribe(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Call `listener` with each event from now on.

        Args:
            listener: Called in the task that makes the call, so it must not block.
            kinds: Event types to receive; default all.

        Returns:
            A function that unsubscribes the listener.
        """
        kinds = kinds or EVENT_TYPES
        for kind in kinds:
            self._listeners[kind] = (*self._listeners.get(kind, ()), listener)
        self.observed_types.update(kinds)

        def unsubscribe() -> None:
            for kind in kinds:
                listeners = self._listeners[kind]
                self._listeners[kind] = tuple(one for one in listeners if one is not listener)
                if not self._listeners[kind]:
                    self.observed_types.discard(kind)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Call the listeners of the event. A failing listener is logged; the call continues."""
        for listener in self._listeners.get(type(event), ()):
            try:
                listener(event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                log.exception("a listener failed on %s", type(event).__name__)


EVENT_TYPES: tuple[type[Event], ...] = (
    CallStarted,
    AttemptStarted,
    FirstToken,
    RetryScheduled,
    CallEnded,
    BreakerChanged,
    ModelLoaded,
    ModelUnloaded,
    CacheHit,
    CacheMiss,
    CacheStored,
    CacheTrouble,
)
