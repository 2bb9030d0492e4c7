"""The log: one line a call, without prompts and answers unless they are asked for."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.events import (
    EVENT_TYPES,
    AttemptStarted,
    BreakerChanged,
    CacheHit,
    CacheMiss,
    CacheStored,
    CacheTrouble,
    CallEnded,
    CallStarted,
    FirstToken,
    ModelLoaded,
    ModelUnloaded,
    RetryScheduled,
)
from foundry_api.types.plain_text import escape_json, sanitize_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.types.events import Event, UnloadReason

__all__ = ["CallLog"]


class CallLog:
    """A listener that writes to a standard logger.

    A call that was answered is one line at INFO, and so is a model that was loaded or unloaded;
    a call that failed is one at WARNING, and so are retries and changes of a circuit breaker; the
    rest is DEBUG. Every record carries the facts as `record.foundry`, a dict, for handlers that
    want them apart.

    Args:
        logger: Where to.
        json: Make each message one JSON object, with the time.
        content: Show prompts and answers too.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        json: bool = False,
        content: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._logger = logger
        self._json = json
        self._content = content
        self._wall_clock = wall_clock

    @staticmethod
    def event_types(level: str) -> tuple[type[Event], ...]:
        """The events that are written at a level, such as INFO.

        Args:
            level: Name of the level.
        """
        return EVENT_TYPES if level == "DEBUG" else tuple(_LEVELS)

    def __call__(self, event: Event) -> None:
        """Write an event, if anybody reads it."""
        level = _LEVELS.get(type(event), logging.DEBUG)
        if isinstance(event, CallEnded) and event.outcome == "failed":
            level = logging.WARNING
        if self._logger.isEnabledFor(level) and _is_enabled(self._logger):
            fields = _make_fields(event, content=self._content)
            text = (
                self._format_json(fields)
                if self._json
                else sanitize_line(_format_message(event, fields))
            )
            self._logger.log(level, "%s", text, extra={"foundry": fields})

    def _format_json(self, fields: dict[str, Any]) -> str:
        moment = datetime.fromtimestamp(self._wall_clock(), UTC)
        return escape_json(msgspec.json.encode({"time": moment, **fields}).decode())


_LEVELS: dict[type[Event], int] = {
    RetryScheduled: logging.WARNING,
    BreakerChanged: logging.WARNING,
    CallEnded: logging.INFO,
    ModelLoaded: logging.INFO,
    ModelUnloaded: logging.INFO,
}


def _is_enabled(logger: logging.Logger | None) -> bool:
    """Whether a record would reach more than a `NullHandler`: to make one costs 10 µs."""
    while logger is not None:
        for handler in logger.handlers:
            if type(handler) is not logging.NullHandler:
                return True
        logger = logger.parent if logger.propagate else None
    return False


_PRIVATE = frozenset({"request", "content"})


def _make_fields(event: Event, *, content: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"event": type(event).__name__}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if value is not None and (content or name not in _PRIVATE):
            fields.update(_format_value(name, value))
    return fields


def _format_value(name: str, value: Any) -> dict[str, Any]:
    match name:
        case "error":
            return {"error": type(value).__name__, "message": str(value)}
        case "cached":
            return {name: value} if value else {}
        case "attempts":
            return {name: len(value)}
        case "request" | "timings" | "usage":
            members: dict[str, Any] = msgspec.to_builtins(value)
            return {key: item for key, item in members.items() if item not in (None, (), [], {})}
        case _:
            return {name: value}


def _format_message(event: Event, fields: dict[str, Any]) -> str:
    match event:
        case CallStarted():
            text = f"call {event.call} to {event.model} began"
        case AttemptStarted():
            text = f"call {event.call}: attempt {event.attempt} sent to {event.service}"
        case FirstToken():
            seconds = event.time_to_first_token_s
            text = f"call {event.call}: first token after {seconds:.3f} s"
        case RetryScheduled():
            delay = f"the next in {event.delay_s:.2f} s"
            text = f"call {event.call}: attempt {event.attempt} failed, {delay}: {event.error}"
        case BreakerChanged():
            text = f"the circuit breaker of {event.service} is {event.new}; it was {event.old}"
        case ModelLoaded():
            text = f"{event.model} was loaded at {event.service} in {event.duration_s:.3f} s"
        case ModelUnloaded():
            text = f"{event.model} was unloaded at {event.service}: {_REASONS[event.reason]}"
        case CallEnded():
            text = _format_end(event)
        case _:
            text = _format_cache_event(event)
    private = {name: fields[name] for name in ("messages", "content") if name in fields}
    return f"{text} {msgspec.json.encode(private).decode()}" if private else text


def _format_cache_event(event: Event) -> str:
    match event:
        case CacheHit() if event.source == "cache":
            return f"call {event.call}: an answer that was kept {event.age_s:.0f} s ago"
        case CacheHit():
            return f"call {event.call}: shared with an identical one in flight"
        case CacheMiss():
            return f"the cache has no answer of {event.model}"
        case CacheStored():
            return f"an answer of {event.model} is kept: {event.bytes} bytes"
        case CacheTrouble():
            return f"the cache {event.path}: {event.problem}"
        case _:
            return type(event).__name__


_REASONS: dict[UnloadReason, str] = {
    "asked": "somebody asked for it",
    "idle": "nobody used it",
    "budget": "another model needs its memory",
    "swap": "another model takes its place",
}


def _format_end(event: CallEnded) -> str:
    timings = event.timings
    text = f"call {event.call} to {event.model} {event.outcome} after {timings.total_s:.3f} s"
    parts = [text]
    if event.finish_reason is not None:
        parts.append(event.finish_reason)
    if event.cached:
        parts.append("without the engine")
    if event.usage is not None:
        parts.append(f"{event.usage.prompt_tokens}+{event.usage.completion_tokens} tokens")
    if timings.time_to_first_token_s is not None:
        parts.append(f"first token after {timings.time_to_first_token_s:.3f} s")
    if timings.queued_s:
        parts.append(f"queued {timings.queued_s:.3f} s")
    if len(event.attempts) > 1:
        parts.append(f"{len(event.attempts)} attempts")
    text = ", ".join(parts)
    return f"{text}: {event.error}" if event.error is not None else text
