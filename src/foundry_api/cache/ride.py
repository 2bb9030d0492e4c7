"""One caller's part in the making of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from foundry_api.cache.reports import Report
from foundry_api.errors import DeadlineExceeded
from foundry_api.messages import ChatRequest, Chunk, Completion, Timings
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.watch import Watch

if TYPE_CHECKING:
    from types import TracebackType

    from foundry_api.cache.making import Making
    from foundry_api.cache.shared_work import Flight
    from foundry_api.call import CallTools, Order
    from foundry_api.events import CacheSource

__all__ = ["Ride"]

GRACE_S = 0.1
"""The call of the engine ends at the deadline by itself and tells more; for so long it may."""


class Ride:
    """Waits for an answer that is being made, within the caller's own deadline, and reports it.

    The call of the engine reports itself: that of the caller for whom it is made needs no more.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
        started: When he did, on the tools' clock.
        flight: The making under way.
        mine: What would have made the answer, had nobody begun before.
    """

    def __init__(
        self,
        tools: CallTools,
        order: Order[ChatRequest],
        started: float,
        flight: Flight[Chunk, Completion[None]],
        mine: Making,
    ) -> None:
        self._tools = tools
        self._started = started
        self._flight = flight
        self._mine = mine
        self._leads = flight.work is mine
        self._report = Report(tools, order)
        self._watch = Watch(Deadline(order.deadline.at + GRACE_S, order.deadline.limit_s))
        self._watch.ignore_silence("waiting for the first token")

    def __enter__(self) -> Self:
        if not self._leads:
            self._report.began()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._watch.stop()
        if isinstance(error, DeadlineExceeded) and not error.partial:
            error.partial = "".join(chunk.content for chunk in self._flight.came)
        if error is not None and (not self._leads or self._mine.call is None):
            self._report.failed(error, self._timings())

    async def more(self, than: int) -> list[Chunk]:
        """The pieces behind so many; none at the end."""
        with self._watch:
            await self._flight.more(than)
        self._watch.ignore_silence("streaming")
        came = self._flight.came[than:]
        return came if self._leads else [_cached(chunk) for chunk in came]

    async def whole(self) -> Completion[None]:
        """The whole answer, when it is there."""
        with self._watch:
            whole = await self._flight.result()
        timings = self._timings()
        if self._leads and not whole.cached:
            timings = msgspec.structs.replace(whole.timings, total_s=timings.total_s)
            return msgspec.structs.replace(whole, timings=timings)
        source: CacheSource = "cache" if whole.cached else "flight"
        whole = msgspec.structs.replace(
            whole, cached=True, attempts=(), headers=(), timings=timings
        )
        self._report.hit(whole, len(self._flight.came), source, 0.0)
        return whole

    def _timings(self) -> Timings:
        return Timings(None, self._tools.clock() - self._started, None)


def _cached(chunk: Chunk) -> Chunk:
    return chunk if chunk.cached else msgspec.structs.replace(chunk, cached=True)
