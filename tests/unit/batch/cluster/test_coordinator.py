"""The desk of a cluster: each line comes back once, whoever dies, comes late or waits."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.batch.cluster.coordinator import MAX_DUPLICATES_WAITING, Coordinator
from foundry_api.batch.cluster.driver import iter_blocks
from foundry_api.batch.cluster.membership import MAX_BLOCK_LINES, BlockSizer
from foundry_api.batch.cluster.messages import Assignment, WorkerId
from foundry_api.batch.dedupe import make_request_key
from foundry_api.batch.engine import EngineState
from foundry_api.batch.response_line import error_result, success_line
from foundry_api.batch.types import BatchLineResult, BatchRequest, Line, WorkItem
from foundry_api.types.errors import ModelNotFound, ServiceCrashed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE = EngineState()


def who(actor: str, node: str = "n1", life: str = "1") -> WorkerId:
    return WorkerId(actor=actor, incarnation=life, node=node, host=f"host of {node}")


def works(*indexes: int) -> list[WorkItem]:
    return [
        WorkItem(Line(each, each, each, None), BatchRequest(custom_id=str(each), body={}))
        for each in indexes
    ]


def done(*indexes: int) -> list[BatchLineResult]:
    return [
        BatchLineResult(index=each, digest=each, output=b"", failed=False, at=0.0)
        for each in indexes
    ]


async def came(desk: Coordinator) -> list[int]:
    return [each.index for each in (await desk.drain_results()).results]


def indexes(taken: tuple[WorkItem, ...]) -> list[int]:
    return [work.line.index for work in taken]


async def test_a_block_that_is_done_again_holds_only_what_is_still_wanted() -> None:
    desk = Coordinator(1)
    desk.register(who("a"))
    desk.submit(works(0, 1, 2))
    assert indexes(await desk.claim(0, "a")) == [0, 1, 2]
    desk.deliver("a", done(1), IDLE)
    desk.register(who("a", life="2"))
    assert indexes(await desk.claim(0, "a")) == [0, 2]


async def test_a_line_that_is_answered_twice_comes_once() -> None:
    desk = Coordinator(2)
    desk.register(who("a"))
    desk.submit(works(0, 1))
    desk.deliver("a", done(0), IDLE)
    desk.deliver("b", done(0, 1), IDLE)
    assert await came(desk) == [0, 1]


async def test_it_is_over_when_all_came_and_no_more_is_to_come() -> None:
    desk = Coordinator(1)
    desk.register(who("a"))
    desk.submit(works(0))
    desk.close_input()
    assert not (await desk.drain_results()).is_finished
    desk.deliver("a", done(0), IDLE)
    assert (await desk.drain_results()).is_finished
    assert await desk.wait_for_blocks(0) == (1, True)
    assert await desk.wait_for_capacity() == 0


async def test_no_more_blocks_are_wanted_than_the_actors_can_use() -> None:
    desk = Coordinator(1)
    asked = 0
    while True:
        room = asyncio.create_task(desk.wait_for_capacity())
        await asyncio.sleep(0)
        if not room.done():
            break
        desk.submit(works(asked))
        asked += 1
    assert asked == 6
    desk.register(who("a"))
    desk.deliver("a", done(0), IDLE)
    assert await room == 1


async def test_a_second_actor_on_a_node_lets_others_have_its_lines_until_the_first_is_gone() -> (
    None
):
    desk = Coordinator(2)
    assert desk.register(who("a")) == Assignment("host of n1")
    assert desk.register(who("b")) is None
    desk.submit(works(0))
    waiting = asyncio.create_task(desk.claim(0, "b"))
    assert (await desk.wait_for_blocks(1))[0] == 2
    assert indexes(await desk.claim(1, "a")) == [0]
    assert not waiting.done()
    desk.register(who("a", node="n2", life="2"))
    assert await waiting == ()
    assert await desk.assign(who("b")) == Assignment("host of n1")


async def test_an_actor_whose_service_is_gone_gives_its_lines_to_others() -> None:
    desk = Coordinator(2, ("http://a", "http://b"))
    assert desk.register(who("a")) == Assignment("http://a", "http://a")
    assert desk.register(who("b")) == Assignment("http://b", "http://b")
    desk.submit(works(0))
    await desk.claim(0, "a")
    desk.unregister("a", ServiceCrashed("it is gone"))
    assert indexes(await desk.claim(1, "b")) == [0]
    desk.unregister("b", ServiceCrashed("this one too"))
    assert isinstance((await desk.drain_results()).failure, ServiceCrashed)


async def test_a_line_that_its_actors_die_of_is_given_up_alone() -> None:
    desk = Coordinator(1, max_attempts=2)
    desk.register(who("a"))
    desk.submit(works(0, 1))
    assert indexes(await desk.claim(0, "a")) == [0, 1]
    assert await desk.claim(0, "a") == ()
    assert indexes(await desk.claim(1, "a")) == [0]
    assert indexes(await desk.claim(2, "a")) == [1]
    desk.deliver("a", done(1), IDLE)
    await desk.claim(1, "a")
    assert await desk.claim(1, "a") == ()
    collected = await desk.drain_results()
    assert [each.index for each in collected.results] == [1]
    assert [each.item.line.index for each in collected.lost] == [0]


def asking(*what: str, first: int = 0) -> list[WorkItem]:
    return [
        WorkItem(
            Line(each, each, each, None), BatchRequest(custom_id=str(each), body={"input": told})
        )
        for each, told in enumerate(what, first)
    ]


def answered(work: WorkItem) -> BatchLineResult:
    output = success_line(work.request, b'"yes"')
    return msgspec.structs.replace(done(work.line.index)[0], output=output, completion_tokens=3)


def sharing(attempts: int = 3) -> Coordinator:
    desk = Coordinator(
        1, max_attempts=attempts, get_key=lambda work: make_request_key(work.request, "demo")
    )
    desk.register(who("a"))
    return desk


async def test_lines_that_ask_the_same_are_asked_once_and_each_is_answered_under_its_name() -> None:
    desk = sharing()
    alike = asking("red", "blue", "red", "red")
    desk.submit(alike)
    assert indexes(await desk.claim(0, "a")) == [0, 1]
    desk.deliver("a", [answered(alike[0])], IDLE)
    desk.submit(asking("red", first=4))
    finished = (await desk.drain_results()).results
    assert [each.index for each in finished] == [0, 2, 3, 4]
    assert [each.shared for each in finished] == [False, True, True, True]
    assert [each.digest for each in finished] == [0, 2, 3, 4]
    told = [msgspec.json.decode(each.output) for each in finished]
    assert [each["custom_id"] for each in told] == ["0", "2", "3", "4"]
    assert {each["response"]["body"] for each in told} == {"yes"}
    assert len({each["id"] for each in told}) == 4


async def test_a_failure_is_that_of_all_that_waited_for_it_and_of_no_later_one() -> None:
    desk = sharing()
    desk.submit(asking("red", "red"))
    await desk.claim(0, "a")
    error = ModelNotFound("no such model")
    desk.deliver("a", [error_result(0, 0, "0", error, at=0.0)], IDLE)
    finished = (await desk.drain_results()).results
    expected = error_result(1, 1, "1", error, at=0.0)
    assert msgspec.structs.replace(finished[1], output=b"") == msgspec.structs.replace(
        expected, output=b""
    )
    told = msgspec.json.decode(finished[1].output)
    assert told == {**msgspec.json.decode(expected.output), "id": told["id"]}
    desk.submit(asking("red", first=2))
    assert indexes(await desk.claim(1, "a")) == [2]


async def test_a_line_that_is_given_up_takes_those_with_it_that_ask_the_same() -> None:
    desk = sharing(attempts=1)
    desk.submit(asking("red", "red"))
    await desk.claim(0, "a")
    await desk.claim(0, "a")
    desk.close_input()
    collected = await desk.drain_results()
    assert [each.item.line.index for each in collected.lost] == [0, 1]
    assert collected.is_finished


async def test_no_more_lines_are_read_than_may_wait_for_one_that_they_are_like() -> None:
    desk = sharing()
    alike = asking(*["red"] * (MAX_DUPLICATES_WAITING + 1))
    desk.submit(alike)
    room = asyncio.create_task(desk.wait_for_capacity())
    await asyncio.sleep(0)
    assert not room.done()
    desk.deliver("a", [answered(alike[0])], IDLE)
    assert await room == 1


async def test_what_one_got_wrong_ends_the_run_for_all() -> None:
    desk = Coordinator(2)
    desk.submit(works(0))
    desk.fail(ModelNotFound("no such model"))
    collected = await desk.drain_results()
    assert collected.is_finished
    assert isinstance(collected.failure, ModelNotFound)


async def test_the_reading_is_closed_with_the_run() -> None:
    closed = False

    async def read() -> AsyncIterator[WorkItem]:
        nonlocal closed
        try:
            for index in count():
                yield works(index)[0]
        finally:
            closed = True

    async def room() -> int:
        return 1

    async with aclosing(iter_blocks(read(), room, lambda _: "demo")) as them:
        assert len(await anext(them)) == 1
    assert closed


@pytest.mark.parametrize(("lines_a_second", "lines"), [(0, 1), (10, 5), (10_000, MAX_BLOCK_LINES)])
def test_a_block_is_half_a_second_of_an_actors_work(lines_a_second: int, lines: int) -> None:
    now = 0.0
    pace = BlockSizer(lambda: now)
    pace.record_delivered(2 * lines_a_second)
    now = 2.0
    assert pace.next_block_size(1, 2) == lines


def test_a_block_holds_enough_to_fill_the_actors_engine() -> None:
    assert BlockSizer(lambda: 0.0).next_block_size(1, 32) == 16
