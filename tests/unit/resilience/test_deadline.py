"""Deadlines, on an event loop with a simulated clock."""

from __future__ import annotations

import asyncio
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.resilience.deadline import (
    NEVER,
    Deadline,
    current_deadline,
    deadline,
    enforce_deadline,
)
from foundry_api.types.errors import DeadlineExceeded, InvalidRequest
from support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from support.virtual_time import Run


@enforce_deadline
async def work(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@enforce_deadline
async def fail() -> None:
    raise TimeoutError


@given(st.lists(st.floats(0.1, 100), max_size=6))
def test_of_several_deadlines_the_earliest_applies(limits: list[float]) -> None:
    async def nested() -> None:
        now = asyncio.get_running_loop().time()
        with ExitStack() as stack:
            for depth, seconds in enumerate(limits, 1):
                before = current_deadline()
                stack.enter_context(deadline(seconds))
                assert current_deadline().at == now + min(limits[:depth])
                assert current_deadline() is before or current_deadline().limit_s == seconds
        assert current_deadline() is NEVER

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(nested())


def test_work_before_the_deadline_is_not_affected(run: Run) -> None:
    async def main() -> None:
        with deadline(10):
            assert await work(9.99) == "done"
        assert await work(1000) == "done"

    run(main())


def test_work_is_cancelled_at_the_deadline(run: Run) -> None:
    async def main() -> None:
        with deadline(10), pytest.raises(DeadlineExceeded, match="10 s") as caught:
            await work(1000)
        assert caught.value.limit_s == 10
        assert asyncio.get_running_loop().time() == 10

    run(main())


def test_later_work_has_the_remaining_time(run: Run) -> None:
    async def main() -> None:
        with deadline(10):
            await work(6)
            with pytest.raises(DeadlineExceeded):
                await work(6)

    run(main())


def test_tasks_inside_have_the_deadline(run: Run) -> None:
    async def main() -> None:
        with deadline(10):
            task = asyncio.create_task(work(1000))
        with pytest.raises(DeadlineExceeded):
            await task

    run(main())


def test_a_timeout_inside_is_not_the_deadline(run: Run) -> None:
    async def main() -> None:
        with deadline(10), pytest.raises(TimeoutError) as caught:
            await fail()
        assert type(caught.value) is TimeoutError

    run(main())


def test_a_deadline_may_enclose_asyncio_run() -> None:
    async def main() -> float:
        return current_deadline().at - asyncio.get_running_loop().time()

    with deadline(1000):
        assert 0 < asyncio.run(main()) <= 1000


def test_the_deadline_of_a_call_applies_if_earlier(run: Run) -> None:
    async def main() -> None:
        with deadline(10) as outer:
            assert Deadline.after(5).limit_s == 5
            assert Deadline.after(20) is outer
            assert Deadline.after(None) is outer
        assert Deadline.after(None) is NEVER

    run(main())


@pytest.mark.parametrize("seconds", [math.nan, "5", True, [1], 1j])
async def test_an_invalid_deadline_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidRequest) as caught, deadline(seconds):
        pass
    assert caught.value.field == "deadline"


@pytest.mark.parametrize("seconds", [0, 0.0, -0.0, -1, -1e300])
async def test_nothing_starts_after_the_deadline(seconds: float) -> None:
    begun = []

    @enforce_deadline
    async def begin() -> None:
        begun.append(1)

    with deadline(seconds), pytest.raises(DeadlineExceeded, match="had passed before"):
        await begin()
    assert not begun


def test_the_error_has_the_stage() -> None:
    error = Deadline(1.0, 2.5).make_error("streaming")
    assert (error.limit_s, error.stage) == (2.5, "streaming")
    assert "the deadline of 2.5 s passed; it was streaming" in str(error)
