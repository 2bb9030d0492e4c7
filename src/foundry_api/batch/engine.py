"""A line of a file as a task: the request goes to the client, the answer becomes a line."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from foundry_api.batch.async_tools import closed_after
from foundry_api.batch.dedupe import ANSWERS_FILE, Kept, request_key
from foundry_api.batch.dispatch import ask, model_of
from foundry_api.batch.response_line import Facts, answer_body, answer_line, facts_of, failed_line
from foundry_api.batch.scheduler import Conditions, pump_of
from foundry_api.batch.task import BatchTask
from foundry_api.batch.types import Finished
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable

    from foundry_api.batch.dispatch import Bounds
    from foundry_api.batch.scheduler import Pump
    from foundry_api.batch.types import Work
    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.cache.base import ResponseCache

__all__ = ["BatchEngine", "Calling", "EngineState", "LineTask", "LocalEngine", "Reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """An engine at one moment.

    Attributes:
        in_flight: Requests at the services now.
        queued: Lines that were taken and wait for their turn.
        limit: How many may be in flight; None where nobody here decides that.
        services: Each service's address and state: `closed` (well), `open` (away), `half-open`.
    """

    in_flight: int = 0
    queued: int = 0
    limit: int | None = None
    services: tuple[tuple[str, str], ...] = ()


class BatchEngine(Protocol):
    """Answers lines."""

    def answers(self, works: AsyncIterable[Work], /) -> AsyncGenerator[Finished]:
        """The lines as they finish; each comes once.

        No more are taken than are needed to keep the services busy. Closing the generator stops
        the engines' work.

        Raises:
            FoundryError: The services are gone for longer than the patience, or the caller's own
                mistake stops every line, such as a model that nobody knows. Lines that were taken
                and not given back are not finished.
        """
        ...

    def drain(self) -> None:
        """Begin no more lines: those in flight are finished, the others are left."""
        ...

    def state(self) -> EngineState:
        """What goes on now."""
        ...


class Answered(msgspec.Struct, frozen=True):
    """An answer without the line that it belongs to.

    Attributes:
        facts: What is told of it.
        body: The object that the route answers with.
    """

    facts: Facts
    body: msgspec.Raw


_DECODER = msgspec.json.Decoder(Answered)
_ENCODER = msgspec.json.Encoder()


class Reply(msgspec.Struct, frozen=True):
    """What became of a line.

    Attributes:
        finished: What the journal gets.
        answered: The answer, for identical lines.
        error: Why there is none.
    """

    finished: Finished
    answered: Answered | None = None
    error: FoundryError | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return 512 + 2 * len(self.finished.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """How lines are answered.

    Attributes:
        client: Makes the calls.
        bounds: What requests have no word for.
        dedupe: Whether identical lines share an answer.
        store: Where shared answers are kept beyond this process; None for nowhere.
        clock: Seconds of a monotonic clock.
        now: Seconds since the epoch.
    """

    client: FoundryAPIClient
    bounds: Bounds
    dedupe: bool = False
    store: ResponseCache | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


class LineTask(BatchTask[Reply]):
    """One line to answer."""

    __slots__ = ("_began", "_calling", "_work")

    def __init__(self, work: Work, calling: Calling) -> None:
        model = model_of(work.request, calling.client.settings.model)
        key = request_key(work.request, model) if calling.dedupe else None
        super().__init__(work.line.index, model, key)
        self._work = work
        self._calling = calling
        self._began: float | None = None

    async def run(self) -> Reply:
        """See `BatchTask.run`."""
        if self._began is None:
            self._began = self._calling.clock()
        store, name = self._calling.store, (self.key or b"").hex()
        if store is not None and (kept := await store.get(name)) is not None:
            return self._reply(_DECODER.decode(kept), shared=True)
        answered = await self._asked()
        if store is not None:
            await store.put(name, _ENCODER.encode(answered), model=answered.facts.model)
        return self._reply(answered, shared=answered.facts.shared)

    def failed(self, error: FoundryError) -> Reply:
        """See `BatchTask.failed`."""
        line, request = self._work.line, self._work.request
        finished = failed_line(
            line.index,
            line.digest,
            request.custom_id,
            error,
            at=self._calling.now(),
            model=self.group,
            duration_s=self._took_s,
        )
        return Reply(finished, error=error)

    def shared(self, result: Reply) -> Reply:
        """See `BatchTask.shared`."""
        if result.answered is not None:
            return self._reply(result.answered, shared=True)
        if result.error is not None:
            return self.failed(result.error)
        return result

    async def _asked(self) -> Answered:
        calling, request = self._calling, self._work.request
        answer = await ask(calling.client, request, calling.bounds, self.group)
        return Answered(facts_of(answer), msgspec.Raw(answer_body(request, answer, calling.now())))

    def _reply(self, answered: Answered, *, shared: bool) -> Reply:
        line, facts = self._work.line, answered.facts
        finished = Finished(
            index=line.index,
            digest=line.digest,
            output=answer_line(self._work.request, answered.body),
            failed=False,
            at=self._calling.now(),
            model=facts.model,
            duration_s=self._took_s,
            queued_s=0.0 if shared else facts.queued_s,
            time_to_first_token_s=None if shared else facts.time_to_first_token_s,
            prompt_tokens=facts.prompt_tokens,
            completion_tokens=facts.completion_tokens,
            attempts=0 if shared else facts.attempts,
            shared=shared,
        )
        return Reply(finished, answered)

    @property
    def _took_s(self) -> float:
        return 0.0 if self._began is None else self._calling.clock() - self._began


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
        from foundry_api.core.cache.sqlite import SqliteCache  # noqa: PLC0415 - few batches need it

        return SqliteCache(self._dedupe / ANSWERS_FILE, only_deterministic=False)


async def _tasks(works: AsyncIterable[Work], calling: Calling) -> AsyncGenerator[LineTask]:
    async with closed_after(works):
        async for work in works:
            yield LineTask(work, calling)
