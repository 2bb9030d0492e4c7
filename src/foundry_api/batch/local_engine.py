"""Lines answered by this process's client: as many at once as its services gain by."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.batch.assembly import Conditions, pump_of
from foundry_api.batch.closing import closed_after
from foundry_api.batch.engine import EngineState
from foundry_api.batch.line_task import Calling, LineTask, Reply
from foundry_api.batch.sharing import ANSWERS_FILE, Kept

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from foundry_api.batch.ask import Bounds
    from foundry_api.batch.lines import Finished, Work
    from foundry_api.batch.pump import Pump
    from foundry_api.cache.store import ResponseCache
    from foundry_api.client import FoundryAPIClient

__all__ = ["LocalEngine"]


class LocalEngine:
    """Implements `BatchEngine`. One run at a time.

    Args:
        client: Makes the calls; it stays its owner's to close.
        attempts: How often a line that failed for a passing reason is begun before it counts as
            failed.
        patience_s: Seconds that all services may be away.
        dedupe: Whether identical lines are asked once. With a directory their answers are kept
            there, and outlive the process.
        bounds: What requests have no word for, such as a time-out.
        conditions: For tests: the clock and the sleep; the arguments above win.
    """

    def __init__(
        self,
        client: FoundryAPIClient,
        *,
        attempts: int = 3,
        patience_s: float = 600.0,
        dedupe: bool | Path = False,
        bounds: Bounds | None = None,
    ) -> None:
        self._client = client
        self._conditions = Conditions(attempts=attempts, patience_s=patience_s)
        self._dedupe = dedupe
        self._bounds: Bounds = bounds or {}
        self._pump: Pump[Reply] | None = None

    async def answers(self, works: AsyncIterable[Work], /) -> AsyncGenerator[Finished]:
        """See `BatchEngine.answers`."""
        kept = Kept[Reply](lambda reply: reply.size) if self._dedupe else None
        pump = self._pump = pump_of(self._client, self._conditions, kept=kept)
        store = self._store()
        calling = Calling(
            client=self._client, bounds=self._bounds, dedupe=bool(self._dedupe), store=store
        )
        try:
            async with aclosing(pump.results(_tasks(works, calling))) as replies:
                async for reply in replies:
                    yield reply.finished
        finally:
            self._pump = None
            if store is not None:
                await store.close()

    def drain(self) -> None:
        """See `BatchEngine.drain`."""
        if self._pump is not None:
            self._pump.drain()

    def state(self) -> EngineState:
        """See `BatchEngine.state`."""
        limiters = [service.limiter.statistics() for service in self._client.services]
        waiting = self._pump.queued if self._pump else 0
        return EngineState(
            in_flight=sum(each.in_flight for each in limiters),
            queued=waiting + sum(each.queued for each in limiters),
            limit=sum(each.limit for each in limiters),
            services=tuple((each.name, each.breaker.state) for each in self._client.services),
        )

    def _store(self) -> ResponseCache | None:
        if not isinstance(self._dedupe, Path):
            return None
        from foundry_api.cache.sqlite import SqliteCache  # noqa: PLC0415 - few batches need it

        return SqliteCache(self._dedupe / ANSWERS_FILE, only_deterministic=False)


async def _tasks(works: AsyncIterable[Work], calling: Calling) -> AsyncGenerator[LineTask]:
    async with closed_after(works):
        async for work in works:
            yield LineTask(work, calling)
