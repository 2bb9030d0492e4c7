"""The desk of a cluster: each line comes back once, whoever dies, comes late or waits."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.batch.cluster.coordinator import MOST_ALIKE, Desk
from foundry_api.batch.cluster.driver import blocks
from foundry_api.batch.cluster.membership import MOST_LINES, Pace
from foundry_api.batch.cluster.messages import Seat, Who
from foundry_api.batch.dedupe import request_key
from foundry_api.batch.engine import EngineState
from foundry_api.batch.response_line import answer_line, failed_line
from foundry_api.batch.types import BatchRequest, Finished, Line, Work
from foundry_api.types.errors import ModelNotFound, ServiceCrashed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE = EngineState()


def who(actor: str, node: str = "n1", life: str = "1") -> Who:
    return Who(actor=actor, life=life, node=node, host=f"host of {node}")


def works(*indexes: int) -> list[Work]:
    return [
        Work(Line(each, each, each, None), BatchRequest(custom_id=str(each), body={}))
        for each in indexes
    ]


def done(*indexes: int) -> list[Finished]:
    return [Finished(index=each, digest=each, output=b"", failed=False, at=0.0) for each in indexes]


async def came(desk: Desk) -> list[int]:
    return [each.index for each in (await desk.collect()).finished]


def indexes(taken: tuple[Work, ...]) -> list[int]:
    return [work.line.index for work in taken]


async def test_a_block_that_is_done_again_holds_only_what_is_still_wanted() -> None:
    desk = Desk(1)
    desk.enter(who("a"))
    desk.put(works(0, 1, 2))
    assert indexes(await desk.take(0, "a")) == [0, 1, 2]
    desk.deliver("a", done(1), IDLE)
    desk.enter(who("a", life="2"))
    assert indexes(await desk.take(0, "a")) == [0, 2]


async def test_a_line_that_is_answered_twice_comes_once() -> None:
    desk = Desk(2)
    desk.enter(who("a"))
    desk.put(works(0, 1))
    desk.deliver("a", done(0), IDLE)
    desk.deliver("b", done(0, 1), IDLE)
    assert await came(desk) == [0, 1]


async def test_it_is_over_when_all_came_and_no_more_is_to_come() -> None:
    desk = Desk(1)
    desk.enter(who("a"))
    desk.put(works(0))
    desk.finish()
    assert not (await desk.collect()).over
    desk.deliver("a", done(0), IDLE)
    assert (await desk.collect()).over
    assert await desk.issued(0) == (1, True)
    assert await desk.room() == 0


async def test_no_more_blocks_are_wanted_than_the_actors_can_use() -> None:
    desk = Desk(1)
    asked = 0
    while True:
        room = asyncio.create_task(desk.room())
        await asyncio.sleep(0)
        if not room.done():
            break
        desk.put(works(asked))
        asked += 1
    assert asked == 6
    desk.enter(who("a"))
    desk.deliver("a", done(0), IDLE)
    assert await room == 1


async def test_a_second_actor_on_a_node_lets_others_have_its_lines_until_the_first_is_gone() -> (
    None
):
    desk = Desk(2)
    assert desk.enter(who("a")) == Seat("host of n1")
    assert desk.enter(who("b")) is None
    desk.put(works(0))
    waiting = asyncio.create_task(desk.take(0, "b"))
    assert (await desk.issued(1))[0] == 2
    assert indexes(await desk.take(1, "a")) == [0]
    assert not waiting.done()
    desk.enter(who("a", node="n2", life="2"))
    assert await waiting == ()
    assert await desk.seat(who("b")) == Seat("host of n1")


async def test_an_actor_whose_service_is_gone_gives_its_lines_to_others() -> None:
    desk = Desk(2, ("http://a", "http://b"))
    assert desk.enter(who("a")) == Seat("http://a", "http://a")
    assert desk.enter(who("b")) == Seat("http://b", "http://b")
    desk.put(works(0))
    await desk.take(0, "a")
    desk.leave("a", ServiceCrashed("it is gone"))
    assert indexes(await desk.take(1, "b")) == [0]
    desk.leave("b", ServiceCrashed("this one too"))
    assert isinstance((await desk.collect()).failure, ServiceCrashed)


async def test_a_line_that_its_actors_die_of_is_given_up_alone() -> None:
    desk = Desk(1, attempts=2)
    desk.enter(who("a"))
    desk.put(works(0, 1))
    assert indexes(await desk.take(0, "a")) == [0, 1]
    assert await desk.take(0, "a") == ()
    assert indexes(await desk.take(1, "a")) == [0]
    assert indexes(await desk.take(2, "a")) == [1]
    desk.deliver("a", done(1), IDLE)
    await desk.take(1, "a")
    assert await desk.take(1, "a") == ()
    collected = await desk.collect()
    assert [each.index for each in collected.finished] == [1]
    assert [each.work.line.index for each in collected.lost] == [0]


def asking(*what: str, first: int = 0) -> list[Work]:
    return [
        Work(Line(each, each, each, None), BatchRequest(custom_id=str(each), body={"input": told}))
        for each, told in enumerate(what, first)
    ]


def answered(work: Work) -> Finished:
    output = answer_line(work.request, b'"yes"')
    return msgspec.structs.replace(done(work.line.index)[0], output=output, completion_tokens=3)


def sharing(attempts: int = 3) -> Desk:
    desk = Desk(1, attempts=attempts, key_of=lambda work: request_key(work.request, "demo"))
    desk.enter(who("a"))
    return desk


async def test_lines_that_ask_the_same_are_asked_once_and_each_is_answered_under_its_name() -> None:
    desk = sharing()
    alike = asking("red", "blue", "red", "red")
    desk.put(alike)
    assert indexes(await desk.take(0, "a")) == [0, 1]
    desk.deliver("a", [answered(alike[0])], IDLE)
    desk.put(asking("red", first=4))
    finished = (await desk.collect()).finished
    assert [each.index for each in finished] == [0, 2, 3, 4]
    assert [each.shared for each in finished] == [False, True, True, True]
    assert [each.digest for each in finished] == [0, 2, 3, 4]
    told = [msgspec.json.decode(each.output) for each in finished]
    assert [each["custom_id"] for each in told] == ["0", "2", "3", "4"]
    assert {each["response"]["body"] for each in told} == {"yes"}
    assert len({each["id"] for each in told}) == 4


async def test_a_failure_is_that_of_all_that_waited_for_it_and_of_no_later_one() -> None:
    desk = sharing()
    desk.put(asking("red", "red"))
    await desk.take(0, "a")
    error = ModelNotFound("no such model")
    desk.deliver("a", [failed_line(0, 0, "0", error, at=0.0)], IDLE)
    finished = (await desk.collect()).finished
    expected = failed_line(1, 1, "1", error, at=0.0)
    assert msgspec.structs.replace(finished[1], output=b"") == msgspec.structs.replace(
        expected, output=b""
    )
    told = msgspec.json.decode(finished[1].output)
    assert told == {**msgspec.json.decode(expected.output), "id": told["id"]}
    desk.put(asking("red", first=2))
    assert indexes(await desk.take(1, "a")) == [2]


async def test_a_line_that_is_given_up_takes_those_with_it_that_ask_the_same() -> None:
    desk = sharing(attempts=1)
    desk.put(asking("red", "red"))
    await desk.take(0, "a")
    await desk.take(0, "a")
    desk.finish()
    collected = await desk.collect()
    assert [each.work.line.index for each in collected.lost] == [0, 1]
    assert collected.over


async def test_no_more_lines_are_read_than_may_wait_for_one_that_they_are_like() -> None:
    desk = sharing()
    alike = asking(*["red"] * (MOST_ALIKE + 1))
    desk.put(alike)
    room = asyncio.create_task(desk.room())
    await asyncio.sleep(0)
    assert not room.done()
    desk.deliver("a", [answered(alike[0])], IDLE)
    assert await room == 1


async def test_what_one_got_wrong_ends_the_run_for_all() -> None:
    desk = Desk(2)
    desk.put(works(0))
    desk.fail(ModelNotFound("no such model"))
    collected = await desk.collect()
    assert collected.over
    assert isinstance(collected.failure, ModelNotFound)


async def test_the_reading_is_closed_with_the_run() -> None:
    closed = False

    async def read() -> AsyncIterator[Work]:
        nonlocal closed
        try:
            for index in count():
                yield works(index)[0]
        finally:
            closed = True

    async def room() -> int:
        return 1

    async with aclosing(blocks(read(), room, lambda _: "demo")) as them:
        assert len(await anext(them)) == 1
    assert closed


@pytest.mark.parametrize(("lines_a_second", "lines"), [(0, 1), (10, 5), (10_000, MOST_LINES)])
def test_a_block_is_half_a_second_of_an_actors_work(lines_a_second: int, lines: int) -> None:
    now = 0.0
    pace = Pace(lambda: now)
    pace.delivered(2 * lines_a_second)
    now = 2.0
    assert pace.lines(1, 2) == lines


def test_a_block_holds_enough_to_fill_the_actors_engine() -> None:
    assert Pace(lambda: 0.0).lines(1, 32) == 16
