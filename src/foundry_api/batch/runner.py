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
from foundry_api.batch.queues import InOrder
from foundry_api.batch.response_line import failed_line
from foundry_api.batch.types import Line, Work
from foundry_api.types.errors import BatchCancelled, BatchChanged, BatchError, InvalidRequest

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

    from foundry_api.batch.async_tools import BlockingThread
    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.ledger import Ledger
    from foundry_api.batch.progress import BatchProgress, Meter, Phase
    from foundry_api.batch.sources import Source
    from foundry_api.batch.types import Finished

__all__ = ["RETURN_S", "BadLine", "Reading", "Recorder", "Run", "Task"]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be asked, and why."""

    line: Line
    custom_id: str | None
    error: InvalidRequest


@dataclass(slots=True)
class Reading:
    """One pass over an input. Its methods block.

    Attributes:
        source: The input.
        ledger: Knows what is finished.
        duplicates: Indexes of the lines whose `custom_id` another one had first.
        model: Give only requests for this model, `""` for those that name none; None for all.
        bad_too: Give lines that cannot be asked as well; they have no model.
        only: Look at these blocks alone; None for all.
        refused: The blocks that other runners work on.
        lines: How many lines were read.
    """

    source: Source
    ledger: Ledger
    duplicates: AbstractSet[int] = frozenset()
    model: str | None = None
    bad_too: bool = True
    only: AbstractSet[int] | None = None
    refused: set[int] = field(default_factory=set[int])
    lines: int = 0

    def blocks(self) -> Generator[list[Work | BadLine]]:
        """What is to be answered, block by block; a block may have nothing.

        Raises:
            BatchChanged: A line is not the one that was answered.
            BatchInputInvalid: The file breaks.
        """
        lines = self.source.lines()
        while block := list(islice(lines, BLOCK_LINES)):
            self.lines += len(block)
            yield self._wanted(block)

    def _wanted(self, block: list[Line]) -> list[Work | BadLine]:
        number = block[0].index // BLOCK_LINES
        if self.only is not None and number not in self.only:
            return []
        left = self._unfinished(block)
        if not left:
            return []
        if not self.ledger.claim(number):
            self.refused.add(number)
            return []
        return list(self._understood(self._unfinished(left)))  # others may have been at it

    def _unfinished(self, block: list[Line]) -> list[Line]:
        known = self.ledger.finished(block[0].index, block[-1].index - block[0].index + 1)
        if not known:
            return block
        for line in block:
            if known.get(line.index, line.digest) != line.digest:
                raise BatchChanged(f"{self.source.place(line)} is not the line that was answered")
        return [line for line in block if line.index not in known]

    def _understood(self, lines: Iterable[Line]) -> Iterator[Work | BadLine]:
        for line in lines:
            understood = self._one(line)
            if isinstance(understood, BadLine):
                if self.bad_too:
                    yield understood
            elif self.model in {None, understood.request.body.get("model", "")}:
                yield understood

    def _one(self, line: Line) -> Work | BadLine:
        try:
            request = self.source.request(line)
        except InvalidRequest as error:
            return BadLine(line, self.source.custom_id(line), error)
        if line.index in self.duplicates:
            return BadLine(line, request.custom_id, self._duplicate(line, request.custom_id))
        return Work(line, request)

    def _duplicate(self, line: Line, custom_id: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self.source.place(line)}: another line has the custom_id {custom_id!r} too",
            field="custom_id",
        )


GROUP_S = 0.25
"""A finished line waits so long for others. With the writing it stays well below the second after
which the user is promised that a line is safe."""

GROUP_LINES = 512
GROUP_BYTES = 8 * 1024 * 1024
"""A group ends with so many bytes, too: answers may be long, and memory is to stay flat."""


class Recorder:
    """Collects what finishes, and has it recorded in groups.

    Args:
        record: Makes a group safe: all of it or nothing. Raises where it cannot.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        record: Callable[[Sequence[Finished]], Awaitable[None]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._record = record
        self._sleep = sleep
        self._group: list[Finished] = []
        self._bytes = 0
        self._some = asyncio.Event()
        self._turn = asyncio.Lock()

    async def add(self, finished: Finished) -> None:
        """Take a line. Waits while the disk is behind."""
        self._group.append(finished)
        self._bytes += len(finished.output)
        self._some.set()
        if len(self._group) >= GROUP_LINES or self._bytes >= GROUP_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Have all that was taken recorded. What it does not come to is left for the next time.

        Raises:
            BatchStorageFailed: It cannot be; nothing of the group is.
        """
        async with self._turn:
            group, size = self._group, self._bytes
            self._group, self._bytes = [], 0
            self._some.clear()
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
            await self._some.wait()
            await self._sleep(GROUP_S)
            await self.flush()


TELL_S = 0.25
BEAT_S = 1.0
"""How soon a `batch cancel` is heard, and how old the progress is that `batch status` tells."""

RETURN_S = 0.5
"""How often a runner with nothing to do looks whether another one has died."""

MOST_PASSES = 8
"""A pass for each model costs reading the input again; with more models than this, what the
engine does by itself is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
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
        several = 1 < len(self.models) <= MOST_PASSES and not self.ordered
        if not several:
            return (None,)
        busiest_first = sorted(self.models.items(), key=itemgetter(1), reverse=True)
        return tuple(model for model, _ in busiest_first)


class Run:
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
        task: Task,
        ledger: Ledger,
        engine: BatchEngine,
        *,
        thread: BlockingThread,
        meter: Meter,
        tell: Callable[[BatchProgress], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.total = task.total
        self._task = task
        self._ledger = ledger
        self._engine = engine
        self._thread = thread
        self._meter = meter
        self._tell = tell
        self._wall = wall
        self._recorder = Recorder(self._record)
        self._window = InOrder() if task.ordered else None
        self._phase: Phase = "running"
        self._leaving = False

    async def run(self) -> int:
        """Answer them.

        Returns:
            How many lines the input has.

        Raises:
            BatchCancelled: Somebody asked for that.
            BatchError: The input, the journal or the output failed.
            FoundryError: As `BatchEngine.answers`.
        """
        tasks = [
            asyncio.create_task(each)
            for each in (self._rounds(), self._recorder.run(), self._beats())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(tasks)
            try:
                await self._recorder.flush()  # what is answered is kept, whatever ended the run
            finally:
                self._tell(self._progress())
        for task in tasks:
            if not task.cancelled():
                task.result()
        return self.total or 0

    async def _rounds(self) -> None:
        """Go through the input until nothing is left, for others to finish either."""
        only: AbstractSet[int] | None = None
        while True:
            before = self._meter.lines
            refused = await self._round(only)
            await self._recorder.flush()
            if self.total is not None and await self._is_complete():
                return
            if self._leaving:
                raise BatchCancelled("the batch was cancelled")
            if refused:
                only = await self._freed(refused)
                if only is None:
                    return
            elif self._meter.lines == before:
                raise BatchError("the engine did not answer every line", hint="Run it again.")
            else:
                only = None  # another runner had failed lines asked again

    async def _round(self, only: AbstractSet[int] | None) -> AbstractSet[int]:
        """Answer what nobody else has. The blocks that others work on."""
        readings = [
            Reading(
                self._task.source,
                self._ledger,
                duplicates=self._task.duplicates,
                model=model,
                bad_too=number == 0,
                only=only,
            )
            for number, model in enumerate(self._task.passes)
        ]
        async with aclosing(self._engine.answers(self._works(readings))) as answers:
            async for finished in answers:
                await self._take(finished)
        if not self._leaving:
            self.total = readings[-1].lines
        return frozenset[int]().union(*(reading.refused for reading in readings))

    async def _works(self, readings: Iterable[Reading]) -> AsyncGenerator[Work]:
        for reading in readings:
            blocks = reading.blocks()
            try:
                while (block := await self._thread(next, blocks, None)) is not None:
                    for each in block:
                        if self._leaving:
                            return
                        if self._window is not None:
                            await self._window.room(each.line.index)
                        if isinstance(each, Work):
                            yield each
                        else:
                            await self._take(self._refused(each))
            finally:
                await self._thread(blocks.close)

    def _refused(self, bad: BadLine) -> Finished:
        line = bad.line
        return failed_line(line.index, line.digest, bad.custom_id, bad.error, at=self._wall())

    async def _take(self, finished: Finished) -> None:
        for each in (finished,) if self._window is None else self._window.put(finished):
            await self._recorder.add(each)

    async def _record(self, group: Sequence[Finished]) -> None:
        await self._thread(self._ledger.record, group)
        for each in group:
            self._meter.count(each)  # what is told to be finished is on the disk

    async def _freed(self, refused: AbstractSet[int]) -> AbstractSet[int] | None:
        """Wait until a block is free that another runner left unfinished; None if all is done."""
        self._phase = "waiting"
        while not self._leaving:
            free = {block for block in refused if await self._thread(self._ledger.claim, block)}
            if free:
                self._phase = "running"
                return free
            if await self._is_complete():
                return None
            await asyncio.sleep(RETURN_S)
        raise BatchCancelled("the batch was cancelled")

    async def _is_complete(self) -> bool:
        return await self._thread(self._ledger.complete, self.total or 0)

    async def _beats(self) -> None:
        """Tell how far it is, and hear whether to end."""
        while True:
            progress = self._progress()
            self._tell(progress)
            how = await self._thread(self._ledger.beat, msgspec.json.encode(progress))
            if how == "stop":
                raise BatchCancelled("the batch was cancelled")
            if how == "drain" and not self._leaving:
                self._leaving = True
                self._engine.drain()
            for _ in range(round(BEAT_S / TELL_S)):
                await asyncio.sleep(TELL_S)
                self._tell(self._progress())

    def _progress(self) -> BatchProgress:
        return self._meter.progress(self._phase, total=self.total, engine=self._engine.state())


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel what still runs, and wait until it has ended. Its errors are looked at by others."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
