"""Log calls to a standard logger, one line per call at INFO."""

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


_LEVELS: dict[type[Event], int] = {
    RetryScheduled: logging.WARNING,
    BreakerChanged: logging.WARNING,
    CallEnded: logging.INFO,
    ModelLoaded: logging.INFO,
    ModelUnloaded: logging.INFO,
}
# Logged only with `content=True`.
_PRIVATE = frozenset({"request", "content"})
_UNLOAD_REASONS: dict[UnloadReason, str] = {
    "requested": "as requested",
    "idle": "it was idle",
    "budget": "another model needs its memory",
    "swap": "another model takes its place",
}


class CallLog:
    """A listener that writes to a standard logger.

    Answered calls, and models that are loaded or unloaded, are one line each at INFO. Failed calls,
    retries and changes of a circuit breaker are one line each at WARNING. Other events are logged
    at DEBUG. Each record has the fields of the event as a dict in `record.foundry`.

    Args:
        logger: The logger to write to.
        json: Whether each message is a JSON object, with the time.
        content: Whether to log prompts and answers.
        wall_clock: Returns the Unix time in seconds.
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
        """Return the types of events that are logged at a level.

        Args:
            level: Name of the level, such as INFO.

        Returns:
            All types of events for DEBUG; otherwise those that are logged at INFO or above.
        """
        return EVENT_TYPES if level == "DEBUG" else tuple(_LEVELS)

    def __call__(self, event: Event) -> None:
        """Log an event, unless no handler would receive the record."""
        level = _LEVELS.get(type(event), logging.DEBUG)
        if isinstance(event, CallEnded) and event.outcome == "failed":
            level = logging.WARNING
        if not self._logger.isEnabledFor(level) or not _has_handler(self._logger):
            return
        fields: dict[str, Any] = {"event": type(event).__name__}
        for name in event.__struct_fields__:
            value = getattr(event, name)
            if value is not None and (self._content or name not in _PRIVATE):
                fields.update(_make_fields(name, value))
        if self._json:
            moment = datetime.fromtimestamp(self._wall_clock(), UTC)
            text = escape_json(msgspec.json.encode({"time": moment, **fields}).decode())
        else:
            # A model's name or an error may contain line breaks, and would forge log lines.
            text = sanitize_line(_format_message(event, fields))
        self._logger.log(level, "%s", text, extra={"foundry": fields})


def _has_handler(logger: logging.Logger | None) -> bool:
    # A record takes 10 µs, and without configuration only the NullHandler of the package gets it.
    while logger is not None:
        for handler in logger.handlers:
            if type(handler) is not logging.NullHandler:
                return True
        logger = logger.parent if logger.propagate else None
    return False


def _make_fields(name: str, value: Any) -> dict[str, Any]:
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
            text = f"call {event.call} to {event.model} started"
        case AttemptStarted():
            text = f"call {event.call}: attempt {event.attempt} sent to {event.service}"
        case FirstToken():
            seconds = event.time_to_first_token_s
            text = f"call {event.call}: first token after {seconds:.3f} s"
        case RetryScheduled():
            delay = f"next in {event.delay_s:.2f} s"
            text = f"call {event.call}: attempt {event.attempt} failed, {delay}: {event.error}"
        case BreakerChanged():
            text = f"the circuit breaker of {event.service} changed from {event.old} to {event.new}"
        case ModelLoaded():
            text = f"{event.model} was loaded at {event.service} in {event.duration_s:.3f} s"
        case ModelUnloaded():
            text = f"{event.model} was unloaded at {event.service}: {_UNLOAD_REASONS[event.reason]}"
        case CallEnded():
            text = _format_end(event)
        case _:
            text = _format_cache_event(event)
    private = {name: fields[name] for name in ("messages", "content") if name in fields}
    return f"{text} {msgspec.json.encode(private).decode()}" if private else text


def _format_cache_event(event: Event) -> str:
    match event:
        case CacheHit() if event.source == "cache":
            return f"call {event.call}: answered from the cache, stored {event.age_s:.0f} s ago"
        case CacheHit():
            return f"call {event.call}: shares the answer of an identical call"
        case CacheMiss():
            return f"the cache has no answer of {event.model}"
        case CacheStored():
            return f"an answer of {event.model} is stored: {event.bytes} bytes"
        case CacheTrouble():
            return f"cache {event.path}: {event.problem}"
        case _:
            return type(event).__name__


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
