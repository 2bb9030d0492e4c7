"""Run a batch: read its lines, have an engine answer them, and record the results."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.journal import BLOCK_LINES
from foundry_api.batch.queues import ReorderBuffer
from foundry_api.batch.response_line import make_error_result
from foundry_api.batch.types import Line, WorkItem
from foundry_api.types.errors import BatchCancelled, BatchError, BatchMismatch, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Generator,
        Iterable,
        Iterator,
        Sequence,
    )
    from collections.abc import Set as AbstractSet

    from foundry_api.batch.async_tools import SerialExecutor
    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.progress import BatchProgress, Phase, ProgressMeter
    from foundry_api.batch.result_store import ResultStore
    from foundry_api.batch.sources import Source
    from foundry_api.batch.types import BatchLineResult

__all__ = [
    "POLL_INTERVAL_S",
    "BatchRunner",
    "GroupCommitWriter",
    "InputPass",
    "InvalidLine",
    "RunPlan",
]

# A finished line waits this long for others. With the write that is well below one second, after
# which users are promised that a line is safe.
GROUP_S = 0.25
GROUP_LINES = 512
GROUP_BYTES = 8 * 1024 * 1024  # answers may be long, and memory has to stay flat

PROGRESS_INTERVAL_S = 0.25

# How soon a runner sees a `batch cancel`, and how old the progress in `batch status` may be.
HEARTBEAT_S = 1.0

# How often a runner without work checks whether another one has died or finished.
POLL_INTERVAL_S = 0.5

# Each pass reads the whole input again. With more models than this, it is enough that the engine
# groups by model the lines that it has.
MAX_PASSES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run has to do."""

    source: Source
    total: int | None = None  # lines of the input; None before they are counted
    # Number of lines by model; `""` is the default model.
    models: dict[str, int] = field(default_factory=dict[str, int])
    # Indexes of lines whose `custom_id` an earlier line has.
    duplicates: AbstractSet[int] = frozenset()
    ordered: bool = False  # whether lines are recorded in the order of the input

    @property
    def passes(self) -> tuple[str | None, ...]:
        """The model of each pass over the input. With a pass per model, each is loaded once."""
        if not 1 < len(self.models) <= MAX_PASSES or self.ordered:
            return (None,)
        busiest_first = sorted(self.models.items(), key=itemgetter(1), reverse=True)
        return tuple(model for model, _ in busiest_first)


@dataclass(frozen=True, slots=True)
class InvalidLine:
    """A line that is not a valid request, and so goes to no engine."""

    line: Line
    custom_id: str | None
    error: InvalidRequest


@dataclass(slots=True)
class InputPass:
    """One pass over the input. Its methods block."""

    source: Source
    store: ResultStore  # knows which lines are finished
    # Indexes of lines whose `custom_id` an earlier line has.
    duplicates: AbstractSet[int] = frozenset()
    # Only requests for this model, `""` for those without one; None for all.
    model: str | None = None
    include_invalid: bool = True  # whether to yield invalid lines, which have no model
    only_blocks: AbstractSet[int] | None = None  # None for all
    # Blocks that other runners work on.
    claimed_elsewhere: set[int] = field(default_factory=set[int])
    lines: int = 0  # lines that were read

    def iter_blocks(self) -> Generator[list[WorkItem | InvalidLine]]:
        """Yield the lines to be answered, block by block; a block may be empty."""
        lines = self.source.iter_lines()
        while block := list(islice(lines, BLOCK_LINES)):
            self.lines += len(block)
            number = block[0].index // BLOCK_LINES
            is_selected = self.only_blocks is None or number in self.only_blocks
            pending = self._select_unfinished(block) if is_selected else []
            if pending and not self.store.claim(number):
                self.claimed_elsewhere.add(number)
                pending = []
            # Another runner may have finished some of them before this one claimed the block.
            yield list(self._parse_lines(self._select_unfinished(pending))) if pending else []

    def _select_unfinished(self, block: list[Line]) -> list[Line]:
        known = self.store.get_finished(block[0].index, block[-1].index - block[0].index + 1)
        if not known:
            return block
        for line in block:
            if known.get(line.index, line.digest) != line.digest:
                raise BatchMismatch(
                    f"{self.source.format_place(line)} is not the line that was answered"
                )
        return [line for line in block if line.index not in known]

    def _parse_lines(self, lines: Iterable[Line]) -> Iterator[WorkItem | InvalidLine]:
        for line in lines:
            try:
                request = self.source.parse_request(line)
            except InvalidRequest as error:
                if self.include_invalid:
                    yield InvalidLine(line, self.source.get_custom_id(line), error)
                continue
            if line.index in self.duplicates:
                if self.include_invalid:
                    custom_id = request.custom_id
                    duplicate = InvalidRequest(
                        f"{self.source.format_place(line)}: "
                        f"another line has the custom_id {custom_id!r} too",
                        field="custom_id",
                    )
                    yield InvalidLine(line, custom_id, duplicate)
            elif self.model in {None, request.body.get("model", "")}:
                yield WorkItem(line, request)


class GroupCommitWriter:
    """Collects results and records them in groups, each of them entirely or not at all."""

    def __init__(
        self,
        record: Callable[[Sequence[BatchLineResult]], Awaitable[None]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._record = record
        self._sleep = sleep
        self._group: list[BatchLineResult] = []
        self._bytes = 0
        self._has_pending = asyncio.Event()
        self._lock = asyncio.Lock()

    async def add(self, result: BatchLineResult) -> None:
        """Add a result. Waits while the disk is slower than the engine."""
        self._group.append(result)
        self._bytes += len(result.output)
        self._has_pending.set()
        if len(self._group) >= GROUP_LINES or self._bytes >= GROUP_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Record all results that were added. If that fails, they stay for the next time."""
        async with self._lock:
            group, size = self._group, self._bytes
            self._group, self._bytes = [], 0
            self._has_pending.clear()
            if not group:
                return
            try:
                await self._record(group)
            except BaseException:  # cancellation too: `run` flushes once more at its end
                self._group, self._bytes = group + self._group, size + self._bytes
                raise

    async def run(self) -> None:
        """Record the added results until cancelled."""
        while True:
            await self._has_pending.wait()
            await self._sleep(GROUP_S)
            await self.flush()


class BatchRunner:
    """Runs all unfinished lines of a batch."""

    def __init__(
        self,
        plan: RunPlan,
        store: ResultStore,
        engine: BatchEngine,
        *,
        thread: SerialExecutor,
        meter: ProgressMeter,
        on_progress: Callable[[BatchProgress], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.total = plan.total
        self._plan = plan
        self._store = store
        self._engine = engine
        self._thread = thread
        self._meter = meter
        self._on_progress = on_progress
        self._wall_clock = wall_clock
        self._writer = GroupCommitWriter(self._record)
        self._reorder_buffer = ReorderBuffer() if plan.ordered else None
        self._phase: Phase = "running"
        self._is_draining = False

    async def run(self) -> int:
        """Answer all unfinished lines, and return the number of lines in the input."""
        tasks = [
            asyncio.create_task(coroutine)
            for coroutine in (self._run_passes(), self._writer.run(), self._send_heartbeats())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            try:
                await self._writer.flush()  # answers are kept, whatever ended the run
            finally:
                self._on_progress(self._make_progress())
        for task in tasks:
            if not task.cancelled():
                task.result()
        return self.total or 0

    async def _run_passes(self) -> None:
        """Read the input again and again until neither this runner nor another has lines left."""
        only_blocks: AbstractSet[int] | None = None
        while True:
            lines_before = self._meter.lines
            claimed_elsewhere = await self._run_pass(only_blocks)
            await self._writer.flush()
            if self.total is not None and await self._is_complete():
                return
            if self._is_draining:
                raise BatchCancelled("the batch was cancelled")
            if claimed_elsewhere:
                only_blocks = await self._wait_for_free_blocks(claimed_elsewhere)
                if only_blocks is None:
                    return
            elif self._meter.lines == lines_before:
                # Another pass would end the same way, forever.
                raise BatchError("the engine did not answer every line", hint="Run it again.")
            else:
                only_blocks = None  # another runner retries failed lines, which may be in any block

    async def _run_pass(self, only_blocks: AbstractSet[int] | None) -> AbstractSet[int]:
        """Answer the lines of free blocks, and return the blocks that other runners work on."""
        passes = [
            InputPass(
                self._plan.source,
                self._store,
                duplicates=self._plan.duplicates,
                model=model,
                include_invalid=number == 0,  # once, not in the pass of each model
                only_blocks=only_blocks,
            )
            for number, model in enumerate(self._plan.passes)
        ]
        async with aclosing(self._engine.run(self._iter_items(passes))) as results:
            async for result in results:
                await self._add_result(result)
        if not self._is_draining:  # otherwise the reading stopped before the end of the input
            self.total = passes[-1].lines
        return frozenset[int]().union(*(input_pass.claimed_elsewhere for input_pass in passes))

    async def _iter_items(self, passes: Iterable[InputPass]) -> AsyncGenerator[WorkItem]:
        for input_pass in passes:
            blocks = input_pass.iter_blocks()
            try:
                while (block := await self._thread(next, blocks, None)) is not None:
                    for item in block:
                        if self._is_draining:
                            return
                        if self._reorder_buffer is not None:
                            await self._reorder_buffer.wait_for_capacity(item.line.index)
                        if isinstance(item, WorkItem):
                            yield item
                            continue
                        line = item.line
                        await self._add_result(
                            make_error_result(
                                line.index,
                                line.digest,
                                item.custom_id,
                                item.error,
                                at=self._wall_clock(),
                            )
                        )
            finally:
                await self._thread(blocks.close)

    async def _add_result(self, result: BatchLineResult) -> None:
        for ready in (
            (result,) if self._reorder_buffer is None else self._reorder_buffer.put(result)
        ):
            await self._writer.add(ready)

    async def _record(self, group: Sequence[BatchLineResult]) -> None:
        await self._thread(self._store.record, group)
        # Counted only now: lines that the progress reports as finished are on the disk.
        for result in group:
            self._meter.count(result)

    async def _wait_for_free_blocks(
        self, claimed_elsewhere: AbstractSet[int]
    ) -> AbstractSet[int] | None:
        """Wait for blocks that another runner left unfinished; None once the batch is complete."""
        self._phase = "waiting"
        while not self._is_draining:
            free = {
                block for block in claimed_elsewhere if await self._thread(self._store.claim, block)
            }
            if free:
                self._phase = "running"
                return free
            if await self._is_complete():
                return None
            await asyncio.sleep(POLL_INTERVAL_S)
        raise BatchCancelled("the batch was cancelled")

    async def _is_complete(self) -> bool:
        return await self._thread(self._store.is_complete, self.total or 0)

    async def _send_heartbeats(self) -> None:
        """Report progress, and handle requests to cancel the batch."""
        while True:
            progress = self._make_progress()
            self._on_progress(progress)
            mode = await self._thread(self._store.heartbeat, msgspec.json.encode(progress))
            if mode == "stop":
                raise BatchCancelled("the batch was cancelled")
            if mode == "drain" and not self._is_draining:
                self._is_draining = True
                self._engine.drain()
            for _ in range(round(HEARTBEAT_S / PROGRESS_INTERVAL_S)):
                await asyncio.sleep(PROGRESS_INTERVAL_S)
                self._on_progress(self._make_progress())

    def _make_progress(self) -> BatchProgress:
        return self._meter.make_progress(
            self._phase, total=self.total, engine=self._engine.get_state()
        )
