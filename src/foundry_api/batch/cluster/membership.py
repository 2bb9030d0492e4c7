"""Who works in a cluster, who waits, and who cannot."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_api.batch.cluster.messages import Seat
from foundry_api.batch.engine import EngineState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.batch.cluster.messages import Who
    from foundry_api.types.errors import FoundryError

__all__ = ["BLOCKS_AT_ONCE", "MOST_LINES", "Pace", "Roll", "Seats"]


class Seats:
    """Given to actors as they come, taken back when they come again as another process.

    When a node dies, Ray starts its actor anew on any other one. There it would be a second engine
    with the same models in the same memory, so it waits until that node has none.

    Args:
        urls: The services' addresses, one for each actor; none where each has an engine of its own.
    """

    def __init__(self, urls: Sequence[str] = ()) -> None:
        self._urls = tuple(urls)
        self._holders: dict[str, Who] = {}

    def ask(self, who: Who) -> Seat | None:
        """A seat for an actor; None while there is none. Whoever asks again has the same."""
        for name in self._urls or (who.node,):
            holder = self._holders.setdefault(name, who)
            if holder == who:
                return Seat(name, name) if self._urls else Seat(who.host)
        return None

    def leave(self, actor: str) -> None:
        """An actor has no seat any more, if it had one."""
        self._holders = {name: who for name, who in self._holders.items() if who.actor != actor}


FIRST_LIMIT = 2
"""Lines in flight in an actor that has not told of itself yet."""


@dataclass(slots=True)
class _Member:
    who: Who
    left: FoundryError | None = None
    state: EngineState = field(default_factory=EngineState)


class Roll:
    """The actors, as they have told of themselves.

    Args:
        expected: How many there will be.
        urls: The services' addresses, one for each actor; none where each has an engine of its own.
    """

    def __init__(self, expected: int, urls: Sequence[str] = ()) -> None:
        self._expected = expected
        self._seats = Seats(urls)
        self._members: dict[str, _Member] = {}
        self.news: list[str] = []

    def enter(self, who: Who) -> Seat | None:
        """An actor begins, or begins again as another process."""
        before = self._members.get(who.actor)
        if before is not None and before.who != who:
            self._seats.leave(who.actor)
            self.news.append(f"{before.who.host}: an actor was lost; its lines are asked again")
        self._members[who.actor] = _Member(who)
        seat = self._seats.ask(who)
        if seat is None:
            self.news.append(f"{who.host}: another actor, which waits: an engine is here already")
        else:
            self.news.append(f"{who.host}: {_works_with(seat)}")
        return seat

    def seat(self, who: Who) -> Seat | None:
        """What an actor works with; None while there is nothing, or if it is not here any more."""
        member = self._members.get(who.actor)
        return self._seats.ask(who) if member is not None and member.who == who else None

    def saw(self, actor: str, state: EngineState) -> None:
        """How an actor's engine is."""
        member = self._members.get(actor)
        if member is not None:
            member.state = state

    def leave(self, actor: str, error: FoundryError) -> None:
        """An actor's service is gone, for the rest of the run."""
        member = self._members[actor]
        if member.left is None:
            member.left = error
            self.news.append(f"{member.who.host}: left out for the rest of the run. {error}")

    def works(self, actor: str) -> bool:
        """Whether an actor can answer lines."""
        member = self._members[actor]
        return member.left is None and self._seats.ask(member.who) is not None

    @property
    def working(self) -> int:
        """How many can, those that are still expected included; at least one."""
        idle = sum(not self.works(actor) for actor in self._members)
        return max(1, self._expected - idle)

    @property
    def hopeless(self) -> bool:
        """Whether all that were expected are here, and none can work."""
        working = any(self.works(actor) for actor in self._members)
        return not working and len(self._members) >= self._expected

    @property
    def limit(self) -> int:
        """The most lines that an actor may have in flight."""
        limits = [member.state.limit or FIRST_LIMIT for member in self._members.values()]
        return max(limits, default=FIRST_LIMIT)

    def told(self) -> tuple[str, ...]:
        """What happened since the last time."""
        news, self.news = self.news, []
        return tuple(news)

    def states(self) -> tuple[tuple[str, EngineState], ...]:
        """Each actor's host and engine."""
        return tuple((member.who.host, member.state) for member in self._members.values())


def _works_with(seat: Seat) -> str:
    return "an engine of its own" if seat.url is None else f"an actor for {seat.url}"


BLOCKS_AT_ONCE = 4
"""Blocks that an actor has at once: so its engine never waits for the next one."""

BLOCK_S = 0.5
"""Seconds of an actor's work in a block. It bounds what is asked again when an actor dies, and how
long the last actor works while the others have nothing left."""

MOST_LINES = 64
WINDOW_S = 1.0


class Pace:
    """Learns how quickly lines come back.

    Args:
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._count = 0
        self._rate = 0.0

    def delivered(self, count: int) -> None:
        """So many lines came back."""
        self._count += count

    def lines(self, actors: int, limit: int) -> int:
        """Lines for the next block: some time's work of an actor, or as many as fill its engine.

        Args:
            actors: How many share the work.
            limit: How many lines an actor may have in flight.
        """
        self._measure()
        work = self._rate * BLOCK_S / max(1, actors)
        room = 2 * limit / BLOCKS_AT_ONCE
        return min(MOST_LINES, max(1, math.ceil(work), math.ceil(room)))

    def _measure(self) -> None:
        elapsed = self._clock() - self._since
        if elapsed >= WINDOW_S:
            self._rate = self._count / elapsed
            self._since, self._count = self._since + elapsed, 0
