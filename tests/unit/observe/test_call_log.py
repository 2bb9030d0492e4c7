"""The call log: one line per call, without prompts and answers by default."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.observe.call_log import CallLog
from foundry_api.types import errors
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
    Event,
    FirstToken,
    ModelLoaded,
    ModelUnloaded,
    RetryScheduled,
)
from foundry_api.types.messages import AttemptRecord, Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = "http://127.0.0.1:5273"
ERROR = errors.ServerError("the engine failed", service=SERVICE)
REQUEST = make_chat_request(
    [{"role": "user", "content": "my prompt"}], max_tokens=9, stop="my stop"
)

STARTED = CallStarted(call=1, model="tiny", request=REQUEST)
SENT = AttemptStarted(call=1, attempt=1, model="tiny:1", service=SERVICE, queued_s=0)
FIRST = FirstToken(call=1, attempt=1, model="tiny:1", service=SERVICE, time_to_first_token_s=0.25)
RETRY = RetryScheduled(call=1, attempt=1, model="tiny:1", service=SERVICE, error=ERROR, delay_s=0.5)
ANSWERED = CallEnded(
    call=1,
    outcome="answered",
    model="tiny:1",
    service=SERVICE,
    attempts=(AttemptRecord(0.1, ERROR), AttemptRecord(0.5)),
    timings=Timings(0.25, 0.75, 20.0, 0.125),
    usage=Usage(7, 5, 12),
    finish_reason="stop",
    chunks=5,
    content="my answer",
)
FAILED = CallEnded(
    call=2,
    outcome="failed",
    model="tiny:1",
    service=SERVICE,
    attempts=(AttemptRecord(0.1, ERROR),),
    timings=Timings(None, 0.1, None),
    error=ERROR,
    content="my answer",
)
LEFT = CallEnded(
    call=3, outcome="cancelled", model="tiny", service=None, attempts=(), timings=Timings(0, 1, 0)
)
OPENED = BreakerChanged(service=SERVICE, old="closed", new="open", retry_after_s=5)
LOADED = ModelLoaded(model="tiny:1", service=SERVICE, duration_s=0.5, size_mb=3)
IDLE = ModelUnloaded(model="tiny:1", service=SERVICE, reason="idle")
HIT = CacheHit(call=4, model="tiny:1", service=SERVICE, source="cache", age_s=60)
SHARED = CacheHit(call=5, model="tiny:1", service=SERVICE, source="flight")
MISS = CacheMiss(model="tiny:1", service=SERVICE)
STORED = CacheStored(model="tiny:1", service=SERVICE, bytes=400)
TROUBLE = CacheTrouble(path="a.db", problem="disk is full")
AGAIN = CallEnded(
    call=4,
    outcome="answered",
    model="tiny:1",
    service=SERVICE,
    attempts=(),
    timings=Timings(None, 0.001, None),
    usage=Usage(7, 5, 12),
    cached=True,
)
ALL: tuple[Event, ...] = (
    *(STARTED, SENT, FIRST, RETRY, ANSWERED, FAILED, LEFT, OPENED),
    *(LOADED, IDLE, HIT, SHARED, MISS, STORED, TROUBLE, AGAIN),
)

SENTENCES: tuple[tuple[Event, int, str], ...] = (
    (STARTED, logging.DEBUG, "call 1 to tiny started"),
    (SENT, logging.DEBUG, f"call 1: attempt 1 sent to {SERVICE}"),
    (FIRST, logging.DEBUG, "call 1: first token after 0.250 s"),
    (RETRY, logging.WARNING, f"call 1: attempt 1 failed, next in 0.50 s: {ERROR}"),
    (
        ANSWERED,
        logging.INFO,
        (
            "call 1 to tiny:1 answered after 0.750 s, stop, 7+5 tokens, "
            "first token after 0.250 s, queued 0.125 s, 2 attempts"
        ),
    ),
    (FAILED, logging.WARNING, f"call 2 to tiny:1 failed after 0.100 s: {ERROR}"),
    (LEFT, logging.INFO, "call 3 to tiny cancelled after 1.000 s, first token after 0.000 s"),
    (OPENED, logging.WARNING, f"the circuit breaker of {SERVICE} changed from closed to open"),
    (LOADED, logging.INFO, f"tiny:1 was loaded at {SERVICE} in 0.500 s"),
    (IDLE, logging.INFO, f"tiny:1 was unloaded at {SERVICE}: it was idle"),
    (HIT, logging.DEBUG, "call 4: answered from the cache, stored 60 s ago"),
    (SHARED, logging.DEBUG, "call 5: shares the answer of an identical call"),
    (MISS, logging.DEBUG, "the cache has no answer of tiny:1"),
    (STORED, logging.DEBUG, "an answer of tiny:1 is stored: 400 bytes"),
    (TROUBLE, logging.DEBUG, "cache a.db: disk is full"),
    (
        AGAIN,
        logging.INFO,
        "call 4 to tiny:1 answered after 0.001 s, without the engine, 7+5 tokens",
    ),
)


class Lines(logging.Handler):
    """Collects the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def text(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that does not propagate."""
    logger = logging.getLogger("tests.call_log")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers.clear()


@pytest.fixture
def lines(logger: logging.Logger) -> Lines:
    """The logged lines."""
    lines = Lines()
    logger.addHandler(lines)
    return lines


@pytest.mark.parametrize(("event", "level", "shown"), SENTENCES)
def test_message_of_each_event(
    logger: logging.Logger, lines: Lines, event: Event, level: int, shown: str
) -> None:
    CallLog(logger)(event)
    assert [(record.levelno, record.getMessage()) for record in lines.records] == [(level, shown)]


def test_answered_call_is_one_line_at_info(logger: logging.Logger, lines: Lines) -> None:
    logger.setLevel(logging.INFO)
    for event in (STARTED, SENT, FIRST, ANSWERED):
        CallLog(logger)(event)
    assert len(lines.records) == 1


def test_json_lines(logger: logging.Logger, lines: Lines) -> None:
    for event in ALL:
        CallLog(logger, json=True, wall_clock=lambda: 1.5)(event)
    shown = [json.loads(line) for line in lines.text()]
    assert [one["event"] for one in shown] == [type(event).__name__ for event in ALL]
    assert shown[4] == {
        "time": "1970-01-01T00:00:01.500000Z",
        "event": "CallEnded",
        "call": 1,
        "outcome": "answered",
        "model": "tiny:1",
        "service": SERVICE,
        "attempts": 2,
        "time_to_first_token_s": 0.25,
        "total_s": 0.75,
        "tokens_per_second": 20.0,
        "queued_s": 0.125,
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "finish_reason": "stop",
        "chunks": 5,
        "operation": "chat",
    }
    assert (shown[5]["error"], shown[5]["message"]) == ("ServerError", str(ERROR))


@pytest.mark.parametrize("as_json", [False, True])
def test_content_is_not_logged_by_default(
    logger: logging.Logger, lines: Lines, *, as_json: bool
) -> None:
    for event in ALL:
        CallLog(logger, json=as_json)(event)
    shown = " ".join(lines.text()) + repr([vars(record) for record in lines.records])
    assert not [private for private in ("my prompt", "my answer", "my stop") if private in shown]


@pytest.mark.parametrize("as_json", [False, True])
def test_content_is_logged_on_request(
    logger: logging.Logger, lines: Lines, *, as_json: bool
) -> None:
    for event in ALL:
        CallLog(logger, json=as_json, content=True)(event)
    assert "my prompt" in lines.text()[0]
    assert "my answer" in lines.text()[4]


def test_record_has_the_fields_of_the_event(logger: logging.Logger, lines: Lines) -> None:
    CallLog(logger)(OPENED)
    assert vars(lines.records[0])["foundry"] == {
        "event": "BreakerChanged",
        "service": SERVICE,
        "old": "closed",
        "new": "open",
        "retry_after_s": 5,
    }


def test_no_record_is_made_without_a_handler(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The NullHandler of the package, which keeps stderr quiet, does not count."""
    made: list[object] = []
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logger, "makeRecord", lambda *_args, **_more: made.append(1))
    CallLog(logger)(FAILED)
    assert made == []


def test_event_types_of_a_level() -> None:
    assert set(CallLog.event_types("INFO")) == {
        CallEnded,
        RetryScheduled,
        BreakerChanged,
        ModelLoaded,
        ModelUnloaded,
    }
    assert CallLog.event_types("DEBUG") == EVENT_TYPES
