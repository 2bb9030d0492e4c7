"""The queues of a gateway with several upstreams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.limits.admission import Admission, Work
from foundry_api.gateway.limits.lanes import MAX_IDLE_LANES, Lanes
from foundry_api.gateway.limits.scheduler import LOOKAHEAD
from gateway.fake_openai_server import make_flavour
from gateway.serving import call, make_body
from gateway.several import get_service
from gateway.test_upstreams_routing import serve

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.gateway.limits.admission import Ticket


class Upstreams:
    """Upstreams with slots; a model is named by those that have it."""

    def __init__(self, **slots: int) -> None:
        self.slots = slots

    def find_group(self, model: str) -> frozenset[str]:
        return frozenset(model)

    def get_slots(self) -> dict[str, int]:
        return self.slots

    get_queue_slots = get_slots


def make_admission(upstreams: Upstreams, **config: int) -> Admission:
    return Admission(GatewayConfig(**config), lambda: 0, upstreams=upstreams)


def admit(admission: Admission, model: str, calls: int = 1, body_bytes: int = 0) -> list[Ticket]:
    work = Work(model=model, prompt_tokens=1, max_tokens=1, body_bytes=body_bytes)
    return [admission.admit(None, work) for _ in range(calls)]


def get_active(admission: Admission, model: str) -> int:
    assert isinstance(admission.scheduler, Lanes)
    return admission.scheduler.get_lane(model).active


async def test_a_model_that_is_busy_holds_up_no_other() -> None:
    admission = make_admission(Upstreams(a=2, b=3))
    admit(admission, "a", 20)
    assert get_active(admission, "a") == 2 + LOOKAHEAD
    admit(admission, "b", 20)
    assert get_active(admission, "b") == 3 + LOOKAHEAD
    scheduler = admission.scheduler
    assert (scheduler.slots, scheduler.active) == (5, 5 + 2 * LOOKAHEAD)
    assert scheduler.waiting == 40 - scheduler.active
    assert scheduler.get_depth("anonymous") == scheduler.waiting


async def test_lanes_share_the_slots_of_an_upstream() -> None:
    """Calls for a model of both upstreams use a part of the slots of each."""
    admission = make_admission(Upstreams(a=4, b=4))
    everywhere = admit(admission, "ab", 4)
    admit(admission, "b", 20)
    assert get_active(admission, "b") == 2 + LOOKAHEAD
    for ticket in everywhere:
        ticket.close()
    assert get_active(admission, "b") == 4 + LOOKAHEAD
    admit(admission, "ab", 20)
    assert get_active(admission, "ab") == 8 - get_active(admission, "b") + LOOKAHEAD


async def test_a_lane_behind_a_full_one_still_progresses() -> None:
    admission = make_admission(Upstreams(a=2, b=2))
    running = admit(admission, "ab", 4 + LOOKAHEAD)
    admit(admission, "ab", 30)
    waiting = admit(admission, "b", 3)
    assert get_active(admission, "b") == LOOKAHEAD
    # Its call waits at the upstream itself. When that has ended, the next one follows.
    for number in range(3):
        waiting[number].close()
        assert get_active(admission, "b") == (LOOKAHEAD if number < 2 else 0)
    assert get_active(admission, "ab") >= len(running) - 1


async def test_the_queues_are_bounded_together() -> None:
    admission = make_admission(Upstreams(a=1, b=1), queue_bytes=100, queue_per_slot=5)
    admit(admission, "a", 1 + LOOKAHEAD)
    admit(admission, "a", 4, body_bytes=10)
    admit(admission, "b", 1 + LOOKAHEAD, body_bytes=90)  # they start, so they do not count
    admit(admission, "b", 1, body_bytes=60)
    with pytest.raises(RequestError, match="queue"):
        admit(admission, "b", 1, body_bytes=1)
    admit(admission, "a", 1)
    with pytest.raises(RequestError, match="queue"):
        admit(admission, "a", 1)


async def test_lanes_without_calls_are_dropped() -> None:
    admission = make_admission(Upstreams())
    scheduler = admission.scheduler
    assert isinstance(scheduler, Lanes)
    [kept] = admit(admission, "a")
    for number in range(3 * MAX_IDLE_LANES):
        scheduler.get_lane(f"{number}-{'x' * number}")
        scheduler.get_lane(chr(0x100 + number))
    assert len(scheduler._lanes) <= MAX_IDLE_LANES
    assert get_active(admission, "a") == 1
    kept.close()
    assert scheduler.active == 0
    scheduler.forget(["anonymous"])
    assert scheduler.estimate_wait_s("anonymous") == 0


async def test_calls_for_one_model_do_not_hold_up_those_for_another(tmp_path: Path) -> None:
    flavours = {"slow": make_flavour("big"), "quick": make_flavour("small")}
    flavours["slow"].gate.clear()
    tables = {name: {"slots": 2} for name in flavours}
    async with serve(tmp_path, flavours, tables) as served:
        calls = [asyncio.create_task(call(served.http, make_body("x", "big"))) for _ in range(12)]
        scheduler = served.gateway.context.admission.scheduler
        await served.wait_until(lambda: scheduler.active + scheduler.waiting == 12)
        for _ in range(5):
            assert await call(served.http, make_body("x", "small")) == (200, None)
        assert get_service(served, "slow").limiter.load == 2 + LOOKAHEAD
        flavours["slow"].gate.set()
        assert await asyncio.gather(*calls) == [(200, None)] * 12
        assert (scheduler.active, scheduler.waiting) == (0, 0)
