"""The coordinator of a cluster returns each line once, whatever crashes or arrives late."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.batch.cluster.coordinator import MAX_DUPLICATES_WAITING, Coordinator
from foundry_api.batch.cluster.membership import MAX_BLOCK_LINES, BlockSizer
from foundry_api.batch.cluster.messages import Assignment, WorkerId
from foundry_api.batch.dedupe import make_request_key
from foundry_api.batch.engine import EngineState
from foundry_api.batch.response_line import make_error_result, make_success_line
from foundry_api.batch.types import BatchLineResult, BatchRequest, Line, WorkItem
from foundry_api.types.errors import ModelNotFound, ServiceCrashed

pytest.importorskip("ray", reason="the driver imports it")

from foundry_api.batch.cluster.driver import iter_blocks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE = EngineState()


def worker(actor: str, node: str = "n1", incarnation: str = "1") -> WorkerId:
    return WorkerId(actor=actor, incarnation=incarnation, node=node, host=f"host of {node}")


def make_items(*indexes: int) -> list[WorkItem]:
    return [
        WorkItem(Line(index, index, index, None), BatchRequest(custom_id=str(index), body={}))
        for index in indexes
    ]


def done(*indexes: int) -> list[BatchLineResult]:
    return [
        BatchLineResult(index=index, digest=index, output=b"", failed=False, at=0.0)
        for index in indexes
    ]


async def drain_indexes(coordinator: Coordinator) -> list[int]:
    return [result.index for result in (await coordinator.collect_results()).results]


def indexes(items: tuple[WorkItem, ...]) -> list[int]:
    return [item.line.index for item in items]


async def test_repeated_block_contains_only_unanswered_lines() -> None:
    coordinator = Coordinator(1)
    coordinator.register(worker("a"))
    coordinator.submit(make_items(0, 1, 2))
    assert indexes(await coordinator.claim(0, "a")) == [0, 1, 2]
    coordinator.deliver("a", done(1), IDLE)
    coordinator.register(worker("a", incarnation="2"))
    assert indexes(await coordinator.claim(0, "a")) == [0, 2]


async def test_line_answered_twice_is_returned_once() -> None:
    coordinator = Coordinator(2)
    coordinator.register(worker("a"))
    coordinator.submit(make_items(0, 1))
    coordinator.deliver("a", done(0), IDLE)
    coordinator.deliver("b", done(0, 1), IDLE)
    assert await drain_indexes(coordinator) == [0, 1]


async def test_run_ends_after_the_last_result() -> None:
    coordinator = Coordinator(1)
    coordinator.register(worker("a"))
    coordinator.submit(make_items(0))
    coordinator.close_input()
    assert not (await coordinator.collect_results()).is_finished
    coordinator.deliver("a", done(0), IDLE)
    assert (await coordinator.collect_results()).is_finished
    assert await coordinator.wait_for_blocks(0) == (1, True)
    assert await coordinator.wait_for_capacity() == 0


async def test_blocks_are_limited_to_what_actors_can_use() -> None:
    coordinator = Coordinator(1)
    submitted = 0
    while True:
        capacity = asyncio.create_task(coordinator.wait_for_capacity())
        await asyncio.sleep(0)
        if not capacity.done():
            break
        coordinator.submit(make_items(submitted))
        submitted += 1
    assert submitted == 6
    coordinator.register(worker("a"))
    coordinator.deliver("a", done(0), IDLE)
    assert await capacity == 1


async def test_second_actor_on_a_node_waits_for_the_first() -> None:
    coordinator = Coordinator(2)
    assert coordinator.register(worker("a")) == Assignment("host of n1")
    assert coordinator.register(worker("b")) is None
    coordinator.submit(make_items(0))
    waiting = asyncio.create_task(coordinator.claim(0, "b"))
    assert (await coordinator.wait_for_blocks(1))[0] == 2
    assert indexes(await coordinator.claim(1, "a")) == [0]
    assert not waiting.done()
    coordinator.register(worker("a", node="n2", incarnation="2"))
    assert await waiting == ()
    assert await coordinator.assign(worker("b")) == Assignment("host of n1")


async def test_lines_of_an_unregistered_actor_go_to_others() -> None:
    coordinator = Coordinator(2, ("http://a", "http://b"))
    assert coordinator.register(worker("a")) == Assignment("http://a", "http://a")
    assert coordinator.register(worker("b")) == Assignment("http://b", "http://b")
    coordinator.submit(make_items(0))
    await coordinator.claim(0, "a")
    coordinator.unregister("a", ServiceCrashed("it is gone"))
    assert indexes(await coordinator.claim(1, "b")) == [0]
    coordinator.unregister("b", ServiceCrashed("this one too"))
    assert isinstance((await coordinator.collect_results()).failure, ServiceCrashed)


async def test_line_that_crashes_actors_is_given_up_alone() -> None:
    coordinator = Coordinator(1, max_attempts=2)
    coordinator.register(worker("a"))
    coordinator.submit(make_items(0, 1))
    assert indexes(await coordinator.claim(0, "a")) == [0, 1]
    assert await coordinator.claim(0, "a") == ()
    assert indexes(await coordinator.claim(1, "a")) == [0]
    assert indexes(await coordinator.claim(2, "a")) == [1]
    coordinator.deliver("a", done(1), IDLE)
    await coordinator.claim(1, "a")
    assert await coordinator.claim(1, "a") == ()
    collected = await coordinator.collect_results()
    assert [result.index for result in collected.results] == [1]
    assert [result.item.line.index for result in collected.lost] == [0]


def make_requests(*texts: str, first: int = 0) -> list[WorkItem]:
    return [
        WorkItem(
            Line(index, index, index, None),
            BatchRequest(custom_id=str(index), body={"input": text}),
        )
        for index, text in enumerate(texts, first)
    ]


def answered(item: WorkItem) -> BatchLineResult:
    output = make_success_line(item.request, b'"yes"')
    return msgspec.structs.replace(done(item.line.index)[0], output=output, completion_tokens=3)


def make_deduplicating(attempts: int = 3) -> Coordinator:
    coordinator = Coordinator(
        1, max_attempts=attempts, get_key=lambda item: make_request_key(item.request, "demo")
    )
    coordinator.register(worker("a"))
    return coordinator


async def test_identical_lines_are_sent_once_and_all_get_results() -> None:
    coordinator = make_deduplicating()
    alike = make_requests("red", "blue", "red", "red")
    coordinator.submit(alike)
    assert indexes(await coordinator.claim(0, "a")) == [0, 1]
    coordinator.deliver("a", [answered(alike[0])], IDLE)
    coordinator.submit(make_requests("red", first=4))
    finished = (await coordinator.collect_results()).results
    assert [result.index for result in finished] == [0, 2, 3, 4]
    assert [result.shared for result in finished] == [False, True, True, True]
    assert [result.digest for result in finished] == [0, 2, 3, 4]
    decoded = [msgspec.json.decode(result.output) for result in finished]
    assert [line["custom_id"] for line in decoded] == ["0", "2", "3", "4"]
    assert {line["response"]["body"] for line in decoded} == {"yes"}
    assert len({line["id"] for line in decoded}) == 4


async def test_failure_is_shared_with_waiting_lines_but_not_stored() -> None:
    coordinator = make_deduplicating()
    coordinator.submit(make_requests("red", "red"))
    await coordinator.claim(0, "a")
    error = ModelNotFound("no such model")
    coordinator.deliver("a", [make_error_result(0, 0, "0", error, at=0.0)], IDLE)
    finished = (await coordinator.collect_results()).results
    expected = make_error_result(1, 1, "1", error, at=0.0)
    assert msgspec.structs.replace(finished[1], output=b"") == msgspec.structs.replace(
        expected, output=b""
    )
    decoded = msgspec.json.decode(finished[1].output)
    assert decoded == {**msgspec.json.decode(expected.output), "id": decoded["id"]}
    coordinator.submit(make_requests("red", first=2))
    assert indexes(await coordinator.claim(1, "a")) == [2]


async def test_identical_lines_of_a_lost_line_are_lost_too() -> None:
    coordinator = make_deduplicating(attempts=1)
    coordinator.submit(make_requests("red", "red"))
    await coordinator.claim(0, "a")
    await coordinator.claim(0, "a")
    coordinator.close_input()
    collected = await coordinator.collect_results()
    assert [result.item.line.index for result in collected.lost] == [0, 1]
    assert collected.is_finished


async def test_reading_stops_at_too_many_waiting_duplicates() -> None:
    coordinator = make_deduplicating()
    alike = make_requests(*["red"] * (MAX_DUPLICATES_WAITING + 1))
    coordinator.submit(alike)
    capacity = asyncio.create_task(coordinator.wait_for_capacity())
    await asyncio.sleep(0)
    assert not capacity.done()
    coordinator.deliver("a", [answered(alike[0])], IDLE)
    assert await capacity == 1


async def test_failure_ends_the_run() -> None:
    coordinator = Coordinator(2)
    coordinator.submit(make_items(0))
    coordinator.fail(ModelNotFound("no such model"))
    collected = await coordinator.collect_results()
    assert collected.is_finished
    assert isinstance(collected.failure, ModelNotFound)


async def test_source_is_closed_with_the_run() -> None:
    closed = False

    async def read() -> AsyncIterator[WorkItem]:
        nonlocal closed
        try:
            for index in count():
                yield make_items(index)[0]
        finally:
            closed = True

    async def capacity() -> int:
        return 1

    async with aclosing(iter_blocks(read(), capacity, lambda _: "demo")) as blocks:
        assert len(await anext(blocks)) == 1
    assert closed


@pytest.mark.parametrize(("lines_a_second", "lines"), [(0, 1), (10, 5), (10_000, MAX_BLOCK_LINES)])
def test_block_is_half_a_second_of_work(lines_a_second: int, lines: int) -> None:
    now = 0.0
    block_sizer = BlockSizer(lambda: now)
    block_sizer.record_delivered(2 * lines_a_second)
    now = 2.0
    assert block_sizer.next_block_size(1, 2) == lines


def test_block_fills_the_engine() -> None:
    assert BlockSizer(lambda: 0.0).next_block_size(1, 32) == 16
