"""The desk: where a cluster's lines lie until their answers have come.

Lines come from the driver in blocks. Ray Data carries the blocks' numbers to the actors, and has a
block done again whose actor died; the lines themselves an actor fetches here, and its answers come
here as soon as it has them. So a block that is done again holds only what is still wanted, each
line comes back once, whoever answers it twice, and no more lines are on their way than the actors
can use.

One event loop calls all of it, that of the actor that it is in the cluster.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.cluster.membership import BLOCKS_AT_ONCE, BlockSizer, WorkerRegistry
from foundry_api.batch.cluster.messages import DrainedResults, LostLine
from foundry_api.batch.dedupe import LruResults
from foundry_api.batch.response_line import with_custom_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.batch.cluster.messages import Assignment, WorkerId
    from foundry_api.batch.engine import EngineState
    from foundry_api.batch.types import BatchLineResult, WorkItem
    from foundry_api.types.errors import FoundryError

__all__ = ["MAX_DUPLICATES_WAITING", "ChangeNotifier", "Coordinator", "RequestDeduplicator"]


class RequestDeduplicator:
    """Knows the lines that are on their way, and the answers that came last.

    Args:
        key_of: The same for lines that ask the same. None where every line is asked.
    """

    def __init__(self, get_key: Callable[[WorkItem], bytes] | None) -> None:
        self._get_key = get_key
        self._known_results: LruResults[BatchLineResult] = LruResults(
            lambda result: 512 + len(result.output)
        )
        self._leaders: dict[bytes, int] = {}
        self._followers: dict[int, list[WorkItem]] = {}
        self._keys: dict[int, bytes] = {}

    @property
    def waiting(self) -> int:
        """Lines that wait for the answer of another one."""
        return sum(map(len, self._followers.values()))

    def partition(self, items: Sequence[WorkItem]) -> tuple[list[WorkItem], list[BatchLineResult]]:
        """Those that are to be asked, and the answers of those that are known already.

        The others come with the line that they are like.
        """
        if self._get_key is None:
            return list(items), []
        to_send: list[WorkItem] = []
        known: list[BatchLineResult] = []
        for item in items:
            key = self._get_key(item)
            answer = self._known_results.get(key)
            if answer is not None:
                known.append(_copy_result(item, answer))
            elif self._is_leader(item, key):
                to_send.append(item)
        return to_send, known

    def on_answered(self, result: BatchLineResult) -> list[BatchLineResult]:
        """The lines that take this answer. A failure is not kept for later ones."""
        key = self._keys.get(result.index)
        if key is not None and not result.failed:
            self._known_results.put(key, result)
        return [_copy_result(item, result) for item in self.drop(result.index)]

    def drop(self, index: int) -> list[WorkItem]:
        """The lines that waited for one that has no answer."""
        key = self._keys.pop(index, None)
        if key is not None:
            del self._leaders[key]
        return self._followers.pop(index, [])

    def _is_leader(self, item: WorkItem, key: bytes) -> bool:
        index = item.line.index
        leader = self._leaders.setdefault(key, index)
        if leader == index:
            self._keys[index] = key
            return True
        self._followers.setdefault(leader, []).append(item)
        return False


def _copy_result(item: WorkItem, result: BatchLineResult) -> BatchLineResult:
    """What a line is answered that asks the same."""
    line = item.line
    copied = msgspec.structs.replace(
        result,
        index=line.index,
        digest=line.digest,
        output=with_custom_id(result.output, item.request.custom_id),
        duration_s=0.0,
        queued_s=0.0,
        time_to_first_token_s=None,
        attempts=0,
        shared=True,
    )
    return copied if not result.failed else msgspec.structs.replace(copied, shared=False)


class ChangeNotifier:
    """Wakes those who wait for a condition whenever it may have come true."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something has changed."""
        for future in self._waiters:
            if not future.done():
                future.set_result(None)

    async def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        while not condition():
            future = asyncio.get_running_loop().create_future()
            self._waiters.add(future)
            try:
                await future
            finally:
                self._waiters.discard(future)


SPARE_BLOCKS = 2
"""Blocks on their way to the actors, beside those that they have."""

MAX_DUPLICATES_WAITING = 1_000
"""Lines that wait for the answer of another one. With more, no further ones are read."""

HEARTBEAT_S = 1.0
"""How often an actor tells how its engine is."""


class Block:
    """Lines that travel together.

    Attributes:
        lines: Those whose answers have not come, by their indexes.
        attempts: How often an actor began with it.
        holder: The actor that has it; None while none does.
    """

    __slots__ = ("attempts", "holder", "lines")

    def __init__(self, items: Sequence[WorkItem]) -> None:
        self.lines = {item.line.index: item for item in items}
        self.attempts = 0
        self.holder: str | None = None


class Coordinator:
    """See the module.

    Args:
        expected: How many actors there will be.
        urls: The services' addresses, one for each actor; none where each has an engine of its own.
        attempts: In how many of its actors' deaths a line may be in flight before it is given up.
        key_of: The same for lines that ask the same, which are asked once; None asks every line.
        pace: Decides how many lines make a block.
    """

    def __init__(
        self,
        expected: int,
        urls: Sequence[str] = (),
        *,
        max_attempts: int = 3,
        get_key: Callable[[WorkItem], bytes] | None = None,
        block_sizer: BlockSizer | None = None,
    ) -> None:
        self._registry = WorkerRegistry(expected, urls)
        self._max_attempts = max_attempts
        self._deduplicator = RequestDeduplicator(get_key)
        self._block_sizer = block_sizer or BlockSizer()
        self._notifier = ChangeNotifier()
        self._blocks: dict[int, Block] = {}
        self._block_numbers: dict[int, int] = {}
        self._next_number = 0
        self._input_done = False
        self._failure: FoundryError | None = None
        self._results: list[BatchLineResult] = []
        self._lost: list[LostLine] = []

    # The driver

    async def wait_for_capacity(self) -> int:
        """Wait until another block is wanted; how many lines it should have. 0 if none is."""
        await self._notifier.wait_for(lambda: self._is_finished or self._has_capacity)
        return (
            0
            if self._is_finished
            else self._block_sizer.next_block_size(
                self._registry.active_count, self._registry.limit
            )
        )

    def submit(self, items: Sequence[WorkItem]) -> None:
        """Lay down the lines of a block."""
        to_send, known = self._deduplicator.partition(items)
        self._results += known
        if to_send:
            self._issue(Block(to_send))
        self._notifier.notify()

    def close_input(self) -> None:
        """No further block comes from the driver."""
        self._input_done = True
        self._notifier.notify()

    async def drain_results(self) -> DrainedResults:
        """Wait for what came back since the last time."""
        await self._notifier.wait_for(
            lambda: self._is_finished or self._results or self._lost or self._registry.notices
        )
        result, self._results = self._results, []
        lost, self._lost = self._lost, []
        return DrainedResults(
            results=tuple(result),
            lost=tuple(lost),
            notices=self._registry.drain_notices(),
            states=self._registry.get_states(),
            is_finished=self._is_finished,
            failure=self._failure,
        )

    def cancel(self) -> None:
        """The driver wants nothing any more."""
        self._input_done = True
        self._blocks.clear()
        self._block_numbers.clear()
        self._notifier.notify()

    # The reader

    async def wait_for_blocks(self, known: int) -> tuple[int, bool]:
        """Wait until more than `known` blocks were issued; how many, and whether it is over."""
        await self._notifier.wait_for(lambda: self._is_finished or self._next_number > known)
        return self._next_number, self._is_finished

    # The actors

    def register(self, worker_id: WorkerId) -> Assignment | None:
        """An actor begins; what it works with, or None if it has to wait for that."""
        assignment = self._registry.register(worker_id)
        self._notifier.notify()
        return assignment

    async def assign(self, worker_id: WorkerId) -> Assignment | None:
        """Wait for something to work with; None at the end."""
        await self._notifier.wait_for(
            lambda: self._is_finished or self._registry.assign(worker_id) is not None
        )
        return None if self._is_finished else self._registry.assign(worker_id)

    async def claim(self, number: int, actor: str) -> tuple[WorkItem, ...]:
        """The lines of a block that are still wanted.

        An actor that cannot work gets none, after a wait until it can or until the end: meanwhile
        others have them, and it is not sent all further blocks for being the quickest.
        """
        block = self._blocks.get(number)
        if not self._registry.can_work(actor):
            if block is not None:
                self._reissue(number)
            await self._notifier.wait_for(
                lambda: self._is_finished or self._registry.can_work(actor)
            )
            return ()
        if block is None:
            return ()
        block.attempts += 1
        block.holder = actor
        if block.attempts > self._max_attempts:
            self._mark_lost(number)
            return ()
        if block.attempts == self._max_attempts and len(block.lines) > 1:
            self._split_block(number)
            return ()
        return tuple(block.lines.values())

    def deliver(self, actor: str, results: Sequence[BatchLineResult], state: EngineState) -> None:
        """Lines that are answered. One that another actor answered before is dropped."""
        accepted = [result for result in results if self._remove_line(result.index)]
        for result in accepted:
            self._results += [result, *self._deduplicator.on_answered(result)]
        self._block_sizer.record_delivered(len(accepted))
        self._registry.update_state(actor, state)
        self._notifier.notify()

    async def heartbeat(self, actor: str, state: EngineState) -> bool:
        """Tell how the engine is, and wait a moment for the end; whether it has come."""
        self._registry.update_state(actor, state)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S):
                await self._notifier.wait_for(lambda: self._is_finished)
        return self._is_finished

    def unregister(self, actor: str, error: FoundryError) -> None:
        """An actor's service is gone: others get its lines, if there are any."""
        self._registry.unregister(actor, error)
        for number in [
            block_number for block_number, block in self._blocks.items() if block.holder == actor
        ]:
            self._reissue(number)
        if self._registry.all_failed:
            self.fail(error)
        self._notifier.notify()

    def fail(self, error: FoundryError) -> None:
        """The run cannot go on."""
        self._failure = self._failure or error
        self._notifier.notify()

    # Inside

    @property
    def _is_finished(self) -> bool:
        return self._failure is not None or (self._input_done and not self._blocks)

    @property
    def _has_capacity(self) -> bool:
        max_blocks = BLOCKS_AT_ONCE * self._registry.active_count + SPARE_BLOCKS
        return (
            len(self._blocks) < max_blocks and self._deduplicator.waiting < MAX_DUPLICATES_WAITING
        )

    def _issue(self, block: Block) -> None:
        number, self._next_number = self._next_number, self._next_number + 1
        self._blocks[number] = block
        self._block_numbers.update(dict.fromkeys(block.lines, number))
        self._notifier.notify()

    def _reissue(self, number: int) -> None:
        """Let another actor have a block, as one that nobody died of."""
        self._issue(Block(tuple(self._blocks.pop(number).lines.values())))

    def _split_block(self, number: int) -> None:
        """Of lines that travel together only one may be what the actors die of."""
        for item in self._blocks.pop(number).lines.values():
            self._issue(Block((item,)))

    def _mark_lost(self, number: int) -> None:
        for item in self._blocks.pop(number).lines.values():
            del self._block_numbers[item.line.index]
            for lost_item in (item, *self._deduplicator.drop(item.line.index)):
                self._lost.append(LostLine(lost_item, self._max_attempts))
        self._notifier.notify()

    def _remove_line(self, index: int) -> bool:
        number = self._block_numbers.pop(index, None)
        if number is None:
            return False
        lines = self._blocks[number].lines
        del lines[index]
        if not lines:
            del self._blocks[number]
        return True
