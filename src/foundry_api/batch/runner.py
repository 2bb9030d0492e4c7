"""The lines of a batch on their way: read, answered by an engine, recorded."""

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
from foundry_api.batch.response_line import error_result
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
    from foundry_api.batch.ledger import ResultStore
    from foundry_api.batch.progress import BatchProgress, Phase, ProgressMeter
    from foundry_api.batch.sources import Source
    from foundry_api.batch.types import BatchLineResult

__all__ = [
    "RETRY_PUBLISH_S",
    "BatchRunner",
    "GroupCommitWriter",
    "InputPass",
    "InvalidLine",
    "RunPlan",
]


@dataclass(frozen=True, slots=True)
class InvalidLine:
    """A line that cannot be asked, and why."""

    line: Line
    custom_id: str | None
    error: InvalidRequest


@dataclass(slots=True)
class InputPass:
    """One pass over an input. Its methods block.

    Attributes:
        source: The input.
        store: Knows what is finished.
        duplicates: Indexes of the lines whose `custom_id` another one had first.
        model: Give only requests for this model, `""` for those that name none; None for all.
        include_invalid: Give lines that cannot be asked as well; they have no model.
        only_blocks: Look at these blocks alone; None for all.
        claimed_elsewhere: The blocks that other runners work on.
        lines: How many lines were read.
    """

    source: Source
    store: ResultStore
    duplicates: AbstractSet[int] = frozenset()
    model: str | None = None
    include_invalid: bool = True
    only_blocks: AbstractSet[int] | None = None
    claimed_elsewhere: set[int] = field(default_factory=set[int])
    lines: int = 0

    def iter_blocks(self) -> Generator[list[WorkItem | InvalidLine]]:
        """What is to be answered, block by block; a block may have nothing.

        Raises:
            BatchMismatch: A line is not the one that was answered.
            BatchInputInvalid: The file breaks.
        """
        lines = self.source.iter_lines()
        while block := list(islice(lines, BLOCK_LINES)):
            self.lines += len(block)
            yield self._select_lines(block)

    def _select_lines(self, block: list[Line]) -> list[WorkItem | InvalidLine]:
        number = block[0].index // BLOCK_LINES
        if self.only_blocks is not None and number not in self.only_blocks:
            return []
        pending = self._unfinished(block)
        if not pending:
            return []
        if not self.store.claim(number):
            self.claimed_elsewhere.add(number)
            return []
        return list(self._parse_block(self._unfinished(pending)))  # others may have been at it

    def _unfinished(self, block: list[Line]) -> list[Line]:
        known = self.store.get_finished(block[0].index, block[-1].index - block[0].index + 1)
        if not known:
            return block
        for line in block:
            if known.get(line.index, line.digest) != line.digest:
                raise BatchMismatch(
                    f"{self.source.format_place(line)} is not the line that was answered"
                )
        return [line for line in block if line.index not in known]

    def _parse_block(self, lines: Iterable[Line]) -> Iterator[WorkItem | InvalidLine]:
        for line in lines:
            parsed = self._parse_line(line)
            if isinstance(parsed, InvalidLine):
                if self.include_invalid:
                    yield parsed
            elif self.model in {None, parsed.request.body.get("model", "")}:
                yield parsed

    def _parse_line(self, line: Line) -> WorkItem | InvalidLine:
        try:
            request = self.source.parse_request(line)
        except InvalidRequest as error:
            return InvalidLine(line, self.source.get_custom_id(line), error)
        if line.index in self.duplicates:
            return InvalidLine(
                line, request.custom_id, self._duplicate_error(line, request.custom_id)
            )
        return WorkItem(line, request)

    def _duplicate_error(self, line: Line, custom_id: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self.source.format_place(line)}: another line has the custom_id {custom_id!r} too",
            field="custom_id",
        )


GROUP_S = 0.25
"""A finished line waits so long for others. With the writing it stays well below the second after
which the user is promised that a line is safe."""

GROUP_LINES = 512
GROUP_BYTES = 8 * 1024 * 1024
"""A group ends with so many bytes, too: answers may be long, and memory is to stay flat."""


class GroupCommitWriter:
    """Collects what finishes, and has it recorded in groups.

    Args:
        record: Makes a group safe: all of it or nothing. Raises where it cannot.
        sleep: Waits for so many seconds.
    """

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
        """Take a line. Waits while the disk is behind."""
        self._group.append(result)
        self._bytes += len(result.output)
        self._has_pending.set()
        if len(self._group) >= GROUP_LINES or self._bytes >= GROUP_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Have all that was taken recorded. What it does not come to is left for the next time.

        Raises:
            BatchStorageFailed: It cannot be; nothing of the group is.
        """
        async with self._lock:
            group, size = self._group, self._bytes
            self._group, self._bytes = [], 0
            self._has_pending.clear()
            if not group:
                return
            try:
                await self._record(group)
            except BaseException:
                self._group, self._bytes = group + self._group, size + self._bytes
                raise

    async def run(self) -> None:
        """Record what was taken, again and again, until cancelled.

        Raises:
            BatchStorageFailed: As `flush`.
        """
        while True:
            await self._has_pending.wait()
            await self._sleep(GROUP_S)
            await self.flush()


PROGRESS_INTERVAL_S = 0.25
HEARTBEAT_S = 1.0
"""How soon a `batch cancel` is heard, and how old the progress is that `batch status` tells."""

RETRY_PUBLISH_S = 0.5
"""How often a runner with nothing to do looks whether another one has died."""

MAX_PASSES = 8
"""A pass for each model costs reading the input again; with more models than this, what the
engine does by itself is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run is to do.

    Attributes:
        source: The input.
        total: Its lines; None where nobody has counted them.
        models: The models that are asked, with how many lines each; `""` is the default one.
        duplicates: Indexes of lines whose `custom_id` another one had first.
        ordered: Whether lines are recorded in the order of the input.
    """

    source: Source
    total: int | None = None
    models: dict[str, int] = field(default_factory=dict[str, int])
    duplicates: AbstractSet[int] = frozenset()
    ordered: bool = False

    @property
    def passes(self) -> tuple[str | None, ...]:
        """The model of each pass over the input, so that each is loaded once."""
        several = 1 < len(self.models) <= MAX_PASSES and not self.ordered
        if not several:
            return (None,)
        busiest_first = sorted(self.models.items(), key=itemgetter(1), reverse=True)
        return tuple(model for model, _ in busiest_first)


class BatchRunner:
    """Answers all lines that are not finished.

    Args:
        task: What to do.
        ledger: Knows what is finished.
        engine: Answers.
        thread: For what blocks.
        meter: Counts.
        tell: Called some times a second with how far it is.
        wall: Seconds since the epoch.

    Attributes:
        total: Lines of the input; None until they are counted.
    """

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
        self._recorder = GroupCommitWriter(self._record)
        self._reorder_buffer = ReorderBuffer() if plan.ordered else None
        self._phase: Phase = "running"
        self._is_leaving = False

    async def run(self) -> int:
        """Answer them.

        Returns:
            How many lines the input has.

        Raises:
            BatchCancelled: Somebody asked for that.
            BatchError: The input, the journal or the output failed.
            FoundryError: As `BatchEngine.run`.
        """
        tasks = [
            asyncio.create_task(coroutine)
            for coroutine in (self._passes(), self._recorder.run(), self._heartbeats())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel_all(tasks)
            try:
                await self._recorder.flush()  # what is answered is kept, whatever ended the run
            finally:
                self._on_progress(self._make_progress())
        for task in tasks:
            if not task.cancelled():
                task.result()
        return self.total or 0

    async def _passes(self) -> None:
        """Go through the input until nothing is left, for others to finish either."""
        only_blocks: AbstractSet[int] | None = None
        while True:
            before = self._meter.lines
            claimed_elsewhere = await self._pass(only_blocks)
            await self._recorder.flush()
            if self.total is not None and await self._is_complete():
                return
            if self._is_leaving:
                raise BatchCancelled("the batch was cancelled")
            if claimed_elsewhere:
                only_blocks = await self._unclaimed(claimed_elsewhere)
                if only_blocks is None:
                    return
            elif self._meter.lines == before:
                raise BatchError("the engine did not answer every line", hint="Run it again.")
            else:
                only_blocks = None  # another runner had failed lines asked again

    async def _pass(self, only_blocks: AbstractSet[int] | None) -> AbstractSet[int]:
        """Answer what nobody else has. The blocks that others work on."""
        passes = [
            InputPass(
                self._plan.source,
                self._store,
                duplicates=self._plan.duplicates,
                model=model,
                include_invalid=number == 0,
                only_blocks=only_blocks,
            )
            for number, model in enumerate(self._plan.passes)
        ]
        async with aclosing(self._engine.run(self._iter_items(passes))) as answers:
            async for result in answers:
                await self._store_result(result)
        if not self._is_leaving:
            self.total = passes[-1].lines
        return frozenset[int]().union(*(input_pass.claimed_elsewhere for input_pass in passes))

    async def _iter_items(self, passes: Iterable[InputPass]) -> AsyncGenerator[WorkItem]:
        for input_pass in passes:
            blocks = input_pass.iter_blocks()
            try:
                while (block := await self._thread(next, blocks, None)) is not None:
                    for item in block:
                        if self._is_leaving:
                            return
                        if self._reorder_buffer is not None:
                            await self._reorder_buffer.wait_for_capacity(item.line.index)
                        if isinstance(item, WorkItem):
                            yield item
                        else:
                            await self._store_result(self._make_error_result(item))
            finally:
                await self._thread(blocks.close)

    def _make_error_result(self, bad: InvalidLine) -> BatchLineResult:
        line = bad.line
        return error_result(
            line.index, line.digest, bad.custom_id, bad.error, at=self._wall_clock()
        )

    async def _store_result(self, result: BatchLineResult) -> None:
        for ready in (
            (result,) if self._reorder_buffer is None else self._reorder_buffer.put(result)
        ):
            await self._recorder.add(ready)

    async def _record(self, group: Sequence[BatchLineResult]) -> None:
        await self._thread(self._store.record, group)
        for result in group:
            self._meter.count(result)  # what is told to be finished is on the disk

    async def _unclaimed(self, claimed_elsewhere: AbstractSet[int]) -> AbstractSet[int] | None:
        """Wait until a block is free that another runner left unfinished; None if all is done."""
        self._phase = "waiting"
        while not self._is_leaving:
            free = {
                block for block in claimed_elsewhere if await self._thread(self._store.claim, block)
            }
            if free:
                self._phase = "running"
                return free
            if await self._is_complete():
                return None
            await asyncio.sleep(RETRY_PUBLISH_S)
        raise BatchCancelled("the batch was cancelled")

    async def _is_complete(self) -> bool:
        return await self._thread(self._store.is_complete, self.total or 0)

    async def _heartbeats(self) -> None:
        """Tell how far it is, and hear whether to end."""
        while True:
            progress = self._make_progress()
            self._on_progress(progress)
            mode = await self._thread(self._store.heartbeat, msgspec.json.encode(progress))
            if mode == "stop":
                raise BatchCancelled("the batch was cancelled")
            if mode == "drain" and not self._is_leaving:
                self._is_leaving = True
                self._engine.drain()
            for _ in range(round(HEARTBEAT_S / PROGRESS_INTERVAL_S)):
                await asyncio.sleep(PROGRESS_INTERVAL_S)
                self._on_progress(self._make_progress())

    def _make_progress(self) -> BatchProgress:
        return self._meter.make_progress(self._phase, total=self.total, engine=self._engine.state())


async def _cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel what still runs, and wait until it has ended. Its errors are looked at by others."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
