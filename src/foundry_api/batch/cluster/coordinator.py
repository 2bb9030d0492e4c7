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

from foundry_api.batch.cluster.membership import BLOCKS_AT_ONCE, Pace, Roll
from foundry_api.batch.cluster.messages import Collected, Lost
from foundry_api.batch.dedupe import Kept
from foundry_api.batch.response_line import renamed_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.batch.cluster.messages import Seat, Who
    from foundry_api.batch.engine import EngineState
    from foundry_api.batch.types import Finished, Work
    from foundry_api.types.errors import FoundryError

__all__ = ["MOST_ALIKE", "Alike", "Change", "Desk"]


class Alike:
    """Knows the lines that are on their way, and the answers that came last.

    Args:
        key_of: The same for lines that ask the same. None where every line is asked.
    """

    def __init__(self, key_of: Callable[[Work], bytes] | None) -> None:
        self._key_of = key_of
        self._answers: Kept[Finished] = Kept(lambda finished: 512 + len(finished.output))
        self._leaders: dict[bytes, int] = {}
        self._followers: dict[int, list[Work]] = {}
        self._keys: dict[int, bytes] = {}

    @property
    def waiting(self) -> int:
        """Lines that wait for the answer of another one."""
        return sum(map(len, self._followers.values()))

    def sort(self, works: Sequence[Work]) -> tuple[list[Work], list[Finished]]:
        """Those that are to be asked, and the answers of those that are known already.

        The others come with the line that they are like.
        """
        if self._key_of is None:
            return list(works), []
        asked: list[Work] = []
        known: list[Finished] = []
        for work in works:
            key = self._key_of(work)
            answer = self._answers.get(key)
            if answer is not None:
                known.append(_shared(work, answer))
            elif self._leads(work, key):
                asked.append(work)
        return asked, known

    def answered(self, finished: Finished) -> list[Finished]:
        """The lines that take this answer. A failure is not kept for later ones."""
        key = self._keys.get(finished.index)
        if key is not None and not finished.failed:
            self._answers.put(key, finished)
        return [_shared(work, finished) for work in self.lost(finished.index)]

    def lost(self, index: int) -> list[Work]:
        """The lines that waited for one that has no answer."""
        key = self._keys.pop(index, None)
        if key is not None:
            del self._leaders[key]
        return self._followers.pop(index, [])

    def _leads(self, work: Work, key: bytes) -> bool:
        index = work.line.index
        leader = self._leaders.setdefault(key, index)
        if leader == index:
            self._keys[index] = key
            return True
        self._followers.setdefault(leader, []).append(work)
        return False


def _shared(work: Work, finished: Finished) -> Finished:
    """What a line is answered that asks the same."""
    line = work.line
    told = msgspec.structs.replace(
        finished,
        index=line.index,
        digest=line.digest,
        output=renamed_line(finished.output, work.request.custom_id),
        duration_s=0.0,
        queued_s=0.0,
        time_to_first_token_s=None,
        attempts=0,
        shared=True,
    )
    return told if not finished.failed else msgspec.structs.replace(told, shared=False)


class Change:
    """Wakes those who wait for a condition whenever it may have come true."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Something has changed."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        while not condition():
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)


SPARE_BLOCKS = 2
"""Blocks on their way to the actors, beside those that they have."""

MOST_ALIKE = 1_000
"""Lines that wait for the answer of another one. With more, no further ones are read."""

ATTEND_S = 1.0
"""How often an actor tells how its engine is."""


class Block:
    """Lines that travel together.

    Attributes:
        lines: Those whose answers have not come, by their indexes.
        taken: How often an actor began with it.
        holder: The actor that has it; None while none does.
    """

    __slots__ = ("holder", "lines", "taken")

    def __init__(self, works: Sequence[Work]) -> None:
        self.lines = {work.line.index: work for work in works}
        self.taken = 0
        self.holder: str | None = None


class Desk:
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
        attempts: int = 3,
        key_of: Callable[[Work], bytes] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._roll = Roll(expected, urls)
        self._attempts = attempts
        self._alike = Alike(key_of)
        self._pace = pace or Pace()
        self._change = Change()
        self._blocks: dict[int, Block] = {}
        self._where: dict[int, int] = {}
        self._next = 0
        self._no_more = False
        self._failure: FoundryError | None = None
        self._finished: list[Finished] = []
        self._lost: list[Lost] = []

    # The driver

    async def room(self) -> int:
        """Wait until another block is wanted; how many lines it should have. 0 if none is."""
        await self._change.until(lambda: self._over or self._has_room)
        return 0 if self._over else self._pace.lines(self._roll.working, self._roll.limit)

    def put(self, works: Sequence[Work]) -> None:
        """Lay down the lines of a block."""
        asked, known = self._alike.sort(works)
        self._finished += known
        if asked:
            self._issue(Block(asked))
        self._change.tell()

    def finish(self) -> None:
        """No further block comes from the driver."""
        self._no_more = True
        self._change.tell()

    async def collect(self) -> Collected:
        """Wait for what came back since the last time."""
        await self._change.until(
            lambda: self._over or self._finished or self._lost or self._roll.news
        )
        finished, self._finished = self._finished, []
        lost, self._lost = self._lost, []
        return Collected(
            finished=tuple(finished),
            lost=tuple(lost),
            news=self._roll.told(),
            states=self._roll.states(),
            over=self._over,
            failure=self._failure,
        )

    def abandon(self) -> None:
        """The driver wants nothing any more."""
        self._no_more = True
        self._blocks.clear()
        self._where.clear()
        self._change.tell()

    # The reader

    async def issued(self, known: int) -> tuple[int, bool]:
        """Wait until more than `known` blocks were issued; how many, and whether it is over."""
        await self._change.until(lambda: self._over or self._next > known)
        return self._next, self._over

    # The actors

    def enter(self, who: Who) -> Seat | None:
        """An actor begins; what it works with, or None if it has to wait for that."""
        seat = self._roll.enter(who)
        self._change.tell()
        return seat

    async def seat(self, who: Who) -> Seat | None:
        """Wait for something to work with; None at the end."""
        await self._change.until(lambda: self._over or self._roll.seat(who) is not None)
        return None if self._over else self._roll.seat(who)

    async def take(self, number: int, actor: str) -> tuple[Work, ...]:
        """The lines of a block that are still wanted.

        An actor that cannot work gets none, after a wait until it can or until the end: meanwhile
        others have them, and it is not sent all further blocks for being the quickest.
        """
        block = self._blocks.get(number)
        if not self._roll.works(actor):
            if block is not None:
                self._issue_again(number)
            await self._change.until(lambda: self._over or self._roll.works(actor))
            return ()
        if block is None:
            return ()
        block.taken += 1
        block.holder = actor
        if block.taken > self._attempts:
            self._give_up(number)
            return ()
        if block.taken == self._attempts and len(block.lines) > 1:
            self._part(number)
            return ()
        return tuple(block.lines.values())

    def deliver(self, actor: str, finished: Sequence[Finished], state: EngineState) -> None:
        """Lines that are answered. One that another actor answered before is dropped."""
        wanted = [each for each in finished if self._done(each.index)]
        for each in wanted:
            self._finished += [each, *self._alike.answered(each)]
        self._pace.delivered(len(wanted))
        self._roll.saw(actor, state)
        self._change.tell()

    async def attend(self, actor: str, state: EngineState) -> bool:
        """Tell how the engine is, and wait a moment for the end; whether it has come."""
        self._roll.saw(actor, state)
        with suppress(TimeoutError):
            async with asyncio.timeout(ATTEND_S):
                await self._change.until(lambda: self._over)
        return self._over

    def leave(self, actor: str, error: FoundryError) -> None:
        """An actor's service is gone: others get its lines, if there are any."""
        self._roll.leave(actor, error)
        for number in [each for each, block in self._blocks.items() if block.holder == actor]:
            self._issue_again(number)
        if self._roll.hopeless:
            self.fail(error)
        self._change.tell()

    def fail(self, error: FoundryError) -> None:
        """The run cannot go on."""
        self._failure = self._failure or error
        self._change.tell()

    # Inside

    @property
    def _over(self) -> bool:
        return self._failure is not None or (self._no_more and not self._blocks)

    @property
    def _has_room(self) -> bool:
        most_blocks = BLOCKS_AT_ONCE * self._roll.working + SPARE_BLOCKS
        return len(self._blocks) < most_blocks and self._alike.waiting < MOST_ALIKE

    def _issue(self, block: Block) -> None:
        number, self._next = self._next, self._next + 1
        self._blocks[number] = block
        self._where.update(dict.fromkeys(block.lines, number))
        self._change.tell()

    def _issue_again(self, number: int) -> None:
        """Let another actor have a block, as one that nobody died of."""
        self._issue(Block(tuple(self._blocks.pop(number).lines.values())))

    def _part(self, number: int) -> None:
        """Of lines that travel together only one may be what the actors die of."""
        for work in self._blocks.pop(number).lines.values():
            self._issue(Block((work,)))

    def _give_up(self, number: int) -> None:
        for work in self._blocks.pop(number).lines.values():
            del self._where[work.line.index]
            for each in (work, *self._alike.lost(work.line.index)):
                self._lost.append(Lost(each, self._attempts))
        self._change.tell()

    def _done(self, index: int) -> bool:
        number = self._where.pop(index, None)
        if number is None:
            return False
        lines = self._blocks[number].lines
        del lines[index]
        if not lines:
            del self._blocks[number]
        return True
