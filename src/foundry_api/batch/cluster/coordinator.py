"""The coordinator of a cluster: holds the lines until their results have arrived.

The driver submits lines in blocks. Ray Data carries only block numbers to the actors, and processes
a block again if its actor crashes. The actors claim the lines here, and deliver each result here as
soon as they have it. So a repeated block contains only unanswered lines, each line is returned
once even if two actors answer it, and no more lines are under way than the actors can use.

All methods run on one event loop, that of the Ray actor which holds the coordinator.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.cluster.membership import BLOCKS_AT_ONCE, BlockSizer, WorkerRegistry
from foundry_api.batch.cluster.messages import CollectedResults, LostLine
from foundry_api.batch.dedupe import LruResults
from foundry_api.batch.response_line import copy_with_custom_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.batch.cluster.messages import Assignment, WorkerId
    from foundry_api.batch.engine import EngineState
    from foundry_api.batch.types import BatchLineResult, WorkItem
    from foundry_api.types.errors import FoundryError

__all__ = ["MAX_DUPLICATES_WAITING", "ChangeNotifier", "Coordinator", "RequestDeduplicator"]

# Blocks on their way to the actors, besides those that they have.
SPARE_BLOCKS = 2

# With more lines that wait for the answer of an identical one, no further lines are read.
MAX_DUPLICATES_WAITING = 1_000

# How often an actor reports the state of its engine.
HEARTBEAT_S = 1.0


class Block:
    """Lines that an actor receives together."""

    __slots__ = ("claims", "holder", "lines")

    def __init__(self, items: Sequence[WorkItem]) -> None:
        self.lines = {item.line.index: item for item in items}  # unanswered lines by their index
        # Each claim but the first one follows a crash of the actor that had the block.
        self.claims = 0
        self.holder: str | None = None  # the actor that has the block


class Coordinator:
    """Distributes lines to actors, and collects their results."""

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
        # A line is given up once it was in flight in this many crashes of its actors.
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

    # Called by the driver.

    async def wait_for_capacity(self) -> int:
        """Wait until another block is needed, and return its number of lines; 0 at the end."""

        def has_capacity() -> bool:
            max_blocks = BLOCKS_AT_ONCE * self._registry.active_count + SPARE_BLOCKS
            return (
                len(self._blocks) < max_blocks
                and self._deduplicator.waiting < MAX_DUPLICATES_WAITING
            )

        await self._notifier.wait_for(lambda: self._is_finished or has_capacity())
        if self._is_finished:
            return 0
        return self._block_sizer.next_block_size(self._registry.active_count, self._registry.limit)

    def submit(self, items: Sequence[WorkItem]) -> None:
        """Add the lines of a block."""
        to_send, known = self._deduplicator.partition(items)
        self._results += known
        if to_send:
            self._issue(Block(to_send))
        self._notifier.notify()

    def close_input(self) -> None:
        self._input_done = True
        self._notifier.notify()

    async def collect_results(self) -> CollectedResults:
        """Wait for results or notices since the last call, and return them."""
        await self._notifier.wait_for(
            lambda: self._is_finished or self._results or self._lost or self._registry.notices
        )
        results, self._results = self._results, []
        lost, self._lost = self._lost, []
        return CollectedResults(
            results=tuple(results),
            lost=tuple(lost),
            notices=self._registry.take_notices(),
            states=self._registry.get_states(),
            is_finished=self._is_finished,
            failure=self._failure,
        )

    def cancel(self) -> None:
        """End the run, and drop all lines."""
        self._input_done = True
        self._blocks.clear()
        self._block_numbers.clear()
        self._notifier.notify()

    # Called by the reader of block numbers.

    async def wait_for_blocks(self, known: int) -> tuple[int, bool]:
        """Wait for more than `known` blocks; return their number, and whether the run is over."""
        await self._notifier.wait_for(lambda: self._is_finished or self._next_number > known)
        return self._next_number, self._is_finished

    # Called by the actors.

    def register(self, worker_id: WorkerId) -> Assignment | None:
        """Register an actor, and return its assignment; None if it has to wait for one."""
        assignment = self._registry.register(worker_id)
        self._notifier.notify()
        return assignment

    async def assign(self, worker_id: WorkerId) -> Assignment | None:
        """Wait for an assignment; None at the end of the run."""
        await self._notifier.wait_for(
            lambda: self._is_finished or self._registry.assign(worker_id) is not None
        )
        return None if self._is_finished else self._registry.assign(worker_id)

    async def claim(self, number: int, actor: str) -> tuple[WorkItem, ...]:
        """Return the unanswered lines of a block."""
        block = self._blocks.get(number)
        if not self._registry.can_work(actor):
            # Other actors get its lines. This one waits until it can work, or for the end of the
            # run. Otherwise it would finish blocks fastest, and Ray would send it all of them.
            if block is not None:
                self._reissue(number)
            await self._notifier.wait_for(
                lambda: self._is_finished or self._registry.can_work(actor)
            )
            return ()
        if block is None:
            return ()
        block.claims += 1
        block.holder = actor
        if block.claims > self._max_attempts:
            for item in self._blocks.pop(number).lines.values():
                del self._block_numbers[item.line.index]
                for lost_item in (item, *self._deduplicator.drop(item.line.index)):
                    self._lost.append(LostLine(lost_item, self._max_attempts))
            self._notifier.notify()
            return ()
        if block.claims == self._max_attempts and len(block.lines) > 1:
            # Perhaps only one of the lines crashes the actors: from here on each is a block.
            for item in self._blocks.pop(number).lines.values():
                self._issue(Block((item,)))
            return ()
        return tuple(block.lines.values())

    def deliver(self, actor: str, results: Sequence[BatchLineResult], state: EngineState) -> None:
        """Add results, except those of lines that another actor has already answered."""
        accepted = 0
        for result in results:
            number = self._block_numbers.pop(result.index, None)
            if number is None:
                continue
            lines = self._blocks[number].lines
            del lines[result.index]
            if not lines:
                del self._blocks[number]
            self._results += [result, *self._deduplicator.on_answered(result)]
            accepted += 1
        self._block_sizer.record_delivered(accepted)
        self._registry.update_state(actor, state)
        self._notifier.notify()

    async def heartbeat(self, actor: str, state: EngineState) -> bool:
        """Store the engine's state, wait up to HEARTBEAT_S, and return whether the run is over."""
        self._registry.update_state(actor, state)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S):
                await self._notifier.wait_for(lambda: self._is_finished)
        return self._is_finished

    def unregister(self, actor: str, error: FoundryError) -> None:
        """Exclude an actor whose service is unreachable; other actors get its lines."""
        self._registry.unregister(actor, error)
        for number in [
            block_number for block_number, block in self._blocks.items() if block.holder == actor
        ]:
            self._reissue(number)
        if self._registry.all_failed:
            self.fail(error)
        self._notifier.notify()

    def fail(self, error: FoundryError) -> None:
        """End the run with an error."""
        self._failure = self._failure or error
        self._notifier.notify()

    @property
    def _is_finished(self) -> bool:
        return self._failure is not None or (self._input_done and not self._blocks)

    def _issue(self, block: Block) -> None:
        number, self._next_number = self._next_number, self._next_number + 1
        self._blocks[number] = block
        self._block_numbers.update(dict.fromkeys(block.lines, number))
        self._notifier.notify()

    def _reissue(self, number: int) -> None:
        # As a new block: the actor did not crash, so its claim does not count.
        self._issue(Block(tuple(self._blocks.pop(number).lines.values())))


class ChangeNotifier:
    """Lets coroutines wait for conditions, which are checked at each notification."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        for future in self._waiters:
            if not future.done():
                future.set_result(None)

    async def wait_for(self, condition: Callable[[], object]) -> None:
        while not condition():
            future = asyncio.get_running_loop().create_future()
            self._waiters.add(future)
            try:
                await future
            finally:
                self._waiters.discard(future)


class RequestDeduplicator:
    """Sends identical lines once, and stores recent answers for later ones."""

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
        """The number of lines that wait for the answer of an identical one."""
        return sum(map(len, self._followers.values()))

    def partition(self, items: Sequence[WorkItem]) -> tuple[list[WorkItem], list[BatchLineResult]]:
        """Return the lines to send, and results for lines with a stored answer.

        The remaining lines wait for the result of an identical one.
        """
        if self._get_key is None:
            return list(items), []
        to_send: list[WorkItem] = []
        known: list[BatchLineResult] = []
        for item in items:
            key, index = self._get_key(item), item.line.index
            result = self._known_results.get(key)
            if result is not None:
                known.append(_copy_result(item, result))
                continue
            leader = self._leaders.setdefault(key, index)
            if leader == index:
                self._keys[index] = key
                to_send.append(item)
            else:
                self._followers.setdefault(leader, []).append(item)
        return to_send, known

    def on_answered(self, result: BatchLineResult) -> list[BatchLineResult]:
        """Return the results of the lines that waited for this one."""
        # A failure is not stored: a later identical line may succeed.
        key = self._keys.get(result.index)
        if key is not None and not result.failed:
            self._known_results.put(key, result)
        return [_copy_result(item, result) for item in self.drop(result.index)]

    def drop(self, index: int) -> list[WorkItem]:
        """Forget a line, and return those that waited for it."""
        key = self._keys.pop(index, None)
        if key is not None:
            del self._leaders[key]
        return self._followers.pop(index, [])


def _copy_result(item: WorkItem, result: BatchLineResult) -> BatchLineResult:
    line = item.line
    copied = msgspec.structs.replace(
        result,
        index=line.index,
        digest=line.digest,
        output=copy_with_custom_id(result.output, item.request.custom_id),
        duration_s=0.0,
        queued_s=0.0,
        time_to_first_token_s=None,
        attempts=0,
        shared=True,
    )
    # Only answers count as shared, not failures.
    return copied if not result.failed else msgspec.structs.replace(copied, shared=False)
