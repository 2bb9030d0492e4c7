"""The events of a client: one frozen type for every kind, and the hook to subscribe to them.

A listener is called with every event, in the task that makes the call, so it must not block. Logs,
metrics and traces are listeners (`foundry_api.observe`); so is any function of the user's own:

    client.events.subscribe(print)

Of one call the events come in this order: `CallStarted`; for each attempt `AttemptStarted`, perhaps
`FirstToken`, and `RetryScheduled` if another one follows; `CallEnded`, always, however it ended.
`BreakerChanged`, `ModelLoaded` and `ModelUnloaded` belong to a service, not to a call.

Where there is a cache, `CacheMiss` comes ahead of such a call and `CacheStored` behind it. A call
that is answered without the engine has `CallStarted`, `CacheHit` and `CallEnded`.
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
UnloadReason = Literal["asked", "idle", "budget", "swap"]

log = logging.getLogger("foundry_api")


class Event(Result, msgspec.Struct, frozen=True, kw_only=True):
    """What every event is. Its text shows neither prompts nor answers."""

    def __repr__(self) -> str:
        fields = (
            f"{name}={value!r}"
            for name in self.__struct_fields__
            if name not in _PRIVATE and (value := getattr(self, name)) is not None
        )
        return f"{type(self).__name__}({', '.join(fields)})"


_PRIVATE = {"request", "content"}


class CallStarted(Event, frozen=True, kw_only=True):
    """A caller ordered something of a model.

    Attributes:
        call: Number of the call, counted by its client from 1.
        model: The model's name as the caller said it; for a plain request, its method and path.
        request: What a chat was asked, the prompt included; None for other operations.
        operation: What was ordered.
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
        queued_s: Seconds that this attempt waited for its turn.
    """

    call: int
    attempt: int
    model: str
    service: str
    queued_s: float


class FirstToken(Event, frozen=True, kw_only=True):
    """The first text of an answer came.

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
        attempt: Number of the attempt that failed.
        model: The model's id, or its name as the caller said it where no id was found.
        service: Base URL of the service; None if none was found.
        error: Why it failed.
        delay_s: Seconds until the next one.
    """

    call: int
    attempt: int
    model: str
    service: str | None
    error: FoundryError
    delay_s: float


class CallEnded(Event, frozen=True, kw_only=True):
    """A call ended: with an answer, with an error, or because its caller left.

    Attributes:
        call: Number of the call.
        outcome: How it ended.
        model: The model's id, or its name as the caller said it where no id was found.
        service: Base URL of the last service asked; None if none was found.
        attempts: The attempts made, with what went wrong in those that failed.
        timings: Where the time went.
        usage: Tokens as the service counted them; None without a complete answer.
        finish_reason: Why the answer ended; None without a complete answer.
        error: The error that the caller got; None unless the call failed.
        chunks: Pieces of text that came.
        content: The text, as far as it came.
        operation: What was ordered.
        cached: Whether the answer was made by another call, before or at the same time.
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
        service: The service's base URL, or what stands for it before it was found.
        old: The state before.
        new: The state now.
        retry_after_s: Seconds until it lets a call through; 0 unless the new state is open.
    """

    service: str
    old: BreakerState
    new: BreakerState
    retry_after_s: float = 0.0


class ModelLoaded(Event, frozen=True, kw_only=True):
    """This client had a model loaded into memory.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
        duration_s: Seconds that it took.
        size_mb: Size of its files; None if unknown.
    """

    model: str
    service: str
    duration_s: float
    size_mb: float | None = None


class ModelUnloaded(Event, frozen=True, kw_only=True):
    """This client had a model taken out of memory. The system may not get the memory back.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
        reason: `asked` for by the caller, `idle` for too long, in the way of another model in the
            `budget`, or `swap`ped for another one.
    """

    model: str
    service: str
    reason: UnloadReason


class CacheHit(Event, frozen=True, kw_only=True):
    """A call was answered without the engine.

    Attributes:
        call: Number of the call.
        model: Id of the model that gave the answer.
        service: Base URL of the service that gave it.
        source: The `cache`, or a `flight`: an identical call that was being answered.
        age_s: Seconds since the answer was made; 0 for one in flight.
    """

    call: int
    model: str
    service: str
    source: CacheSource
    age_s: float = 0.0


class CacheMiss(Event, frozen=True, kw_only=True):
    """The cache had no answer to a call, so the engine is asked.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
    """

    model: str
    service: str


class CacheStored(Event, frozen=True, kw_only=True):
    """An answer was kept for the next who asks the same.

    Attributes:
        model: Id of the model.
        service: Base URL of the service.
        bytes: Its size in the cache.
    """

    model: str
    service: str
    bytes: int


class CacheTrouble(Event, frozen=True, kw_only=True):
    """The cache's file could not be used. Calls go on.

    Attributes:
        path: The file.
        problem: What is the matter with it.
        backup_path: Where it was set aside, a new one was begun; None if calls go on without.
    """

    path: str
    problem: str
    backup_path: str | None = None


Listener = Callable[[Event], None]


class EventBus:
    """The event hook of a client: subscribe a listener to get the events of its calls.

    Args:
        listeners: Subscribed to everything from the beginning.

    Attributes:
        observed_types: The event types that have a listener. Others need not be created.
    """

    def __init__(self, *listeners: Listener) -> None:
        self.observed_types: set[type[Event]] = set()
        self._listeners: dict[type[Event], tuple[Listener, ...]] = {}
        for listener in listeners:
            self.subscribe(listener)

    def subscribe(self, listener: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Call `listener` with every event from now on. The returned function ends that.

        Args:
            listener: Called in the task that makes the call, so it must not block.
            kinds: Types of the events to hear; none means all.
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
        """Call every listener. A failing listener is logged and does not fail the call."""
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
