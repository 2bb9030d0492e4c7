"""Events and the event bus."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.types.events import (
    EVENT_TYPES,
    BreakerChanged,
    CallEnded,
    CallStarted,
    Event,
    EventBus,
    FirstToken,
)
from foundry_api.types.messages import Timings

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST = FirstToken(call=1, attempt=1, model="tiny:1", service="x", time_to_first_token_s=0.1)
CHANGED = BreakerChanged(service="x", old="closed", new="open", retry_after_s=2.0)


def test_a_listener_gets_all_events_or_its_types() -> None:
    all_heard: list[Event] = []
    some_heard: list[Event] = []
    events = EventBus(all_heard.append)
    events.subscribe(some_heard.append, BreakerChanged)
    for event in (FIRST, CHANGED):
        events.emit(event)
    assert all_heard == [FIRST, CHANGED]
    assert some_heard == [CHANGED]


def test_an_unsubscribed_listener_gets_no_events() -> None:
    received: list[Event] = []
    events = EventBus()
    unsubscribe = events.subscribe(received.append)
    events.emit(FIRST)
    unsubscribe()
    unsubscribe()
    events.emit(CHANGED)
    assert received == [FIRST]


def test_observed_types_are_those_with_a_listener() -> None:
    events = EventBus()
    unsubscribe = events.subscribe(lambda _: None, FirstToken)
    assert [kind for kind in EVENT_TYPES if kind in events.observed_types] == [FirstToken]
    unsubscribe()
    assert FirstToken not in events.observed_types


def test_a_failing_listener_is_isolated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(_event: Event) -> None:
        raise ValueError("mine")

    received: list[Event] = []
    events = EventBus(fails, received.append)
    with caplog.at_level(logging.ERROR, "foundry_api"):
        events.emit(FIRST)
    assert received == [FIRST]
    assert "a listener failed on FirstToken" in caplog.text
    assert "ValueError: mine" in caplog.text


@pytest.mark.parametrize(
    "make",
    [
        lambda secret: CallStarted(
            call=1, model="tiny", request=make_chat_request([{"role": "user", "content": secret}])
        ),
        lambda secret: CallEnded(
            call=1,
            outcome="answered",
            model="tiny:1",
            service="x",
            attempts=(),
            timings=Timings(0.1, 0.2, None),
            content=secret,
        ),
    ],
    ids=["the prompt", "the answer"],
)
def test_the_repr_of_an_event_hides(make: Callable[[str], Event]) -> None:
    assert "secret" not in repr(make("secret"))
    assert repr(make("x")).startswith(f"{type(make('x')).__name__}(call=1, ")


@pytest.mark.parametrize("event", [FIRST, CHANGED])
def test_events_are_immutable(event: Event) -> None:
    with pytest.raises(AttributeError):
        event.service = "y"  # type: ignore[attr-defined]
