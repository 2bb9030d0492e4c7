"""A line of a file as a task: the request goes to the client, the answer becomes a line."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from foundry_api.batch.async_tools import closing_iter
from foundry_api.batch.dedupe import ANSWERS_FILE, LruResults, make_request_key
from foundry_api.batch.dispatch import dispatch, get_model
from foundry_api.batch.response_line import (
    ResultMetadata,
    error_result,
    metadata_from,
    response_body,
    success_line,
)
from foundry_api.batch.scheduler import RetryPolicy, make_scheduler
from foundry_api.batch.task import BatchTask
from foundry_api.batch.types import BatchLineResult
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable

    from foundry_api.batch.dispatch import RequestOverrides
    from foundry_api.batch.protocol import BatchClient
    from foundry_api.batch.scheduler import Scheduler
    from foundry_api.batch.types import WorkItem
    from foundry_api.core.cache.base import ResponseCache

__all__ = [
    "BatchEngine",
    "CallOptions",
    "EngineState",
    "FileLineTask",
    "LineOutcome",
    "LocalEngine",
]


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

    def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
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


class CachedAnswer(msgspec.Struct, frozen=True):
    """An answer without the line that it belongs to.

    Attributes:
        metadata: What is told of it.
        body: The object that the route answers with.
    """

    metadata: ResultMetadata
    body: msgspec.Raw


_DECODER = msgspec.json.Decoder(CachedAnswer)
_ENCODER = msgspec.json.Encoder()


class LineOutcome(msgspec.Struct, frozen=True):
    """What became of a line.

    Attributes:
        result: What the journal gets.
        answer: The answer, for identical lines.
        error: Why there is none.
    """

    result: BatchLineResult
    answer: CachedAnswer | None = None
    error: FoundryError | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return 512 + 2 * len(self.result.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How lines are answered.

    Attributes:
        client: Makes the calls.
        overrides: What requests have no word for.
        dedupe: Whether identical lines share an answer.
        store: Where shared answers are kept beyond this process; None for nowhere.
        monotonic: Seconds of a monotonic clock.
        wall_clock: Seconds since the epoch.
    """

    client: BatchClient
    overrides: RequestOverrides
    dedupe: bool = False
    store: ResponseCache | None = None
    monotonic: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time


class FileLineTask(BatchTask[LineOutcome]):
    """One line to answer."""

    __slots__ = ("_call_options", "_item", "_started_at")

    def __init__(self, item: WorkItem, call_options: CallOptions) -> None:
        model = get_model(item.request, call_options.client.settings.model)
        key = make_request_key(item.request, model) if call_options.dedupe else None
        super().__init__(item.line.index, model, key)
        self._item = item
        self._call_options = call_options
        self._started_at: float | None = None

    async def run(self) -> LineOutcome:
        """See `BatchTask.run`."""
        if self._started_at is None:
            self._started_at = self._call_options.monotonic()
        store, name = self._call_options.store, (self.key or b"").hex()
        if store is not None and (saved := await store.get(name)) is not None:
            return self._make_outcome(_DECODER.decode(saved), shared=True)
        answer = await self._call()
        if store is not None:
            await store.put(name, _ENCODER.encode(answer), model=answer.metadata.model)
        return self._make_outcome(answer, shared=answer.metadata.shared)

    def make_failed_result(self, error: FoundryError) -> LineOutcome:
        """See `BatchTask.make_failed_result`."""
        line, request = self._item.line, self._item.request
        result = error_result(
            line.index,
            line.digest,
            request.custom_id,
            error,
            at=self._call_options.wall_clock(),
            model=self.group,
            duration_s=self._elapsed_s,
        )
        return LineOutcome(result, error=error)

    def make_shared_result(self, result: LineOutcome) -> LineOutcome:
        """See `BatchTask.make_shared_result`."""
        if result.answer is not None:
            return self._make_outcome(result.answer, shared=True)
        if result.error is not None:
            return self.make_failed_result(result.error)
        return result

    async def _call(self) -> CachedAnswer:
        call_options, request = self._call_options, self._item.request
        answer = await dispatch(call_options.client, request, call_options.overrides, self.group)
        return CachedAnswer(
            metadata_from(answer),
            msgspec.Raw(response_body(request, answer, call_options.wall_clock())),
        )

    def _make_outcome(self, answer: CachedAnswer, *, shared: bool) -> LineOutcome:
        line, metadata = self._item.line, answer.metadata
        result = BatchLineResult(
            index=line.index,
            digest=line.digest,
            output=success_line(self._item.request, answer.body),
            failed=False,
            at=self._call_options.wall_clock(),
            model=metadata.model,
            duration_s=self._elapsed_s,
            queued_s=0.0 if shared else metadata.queued_s,
            time_to_first_token_s=None if shared else metadata.time_to_first_token_s,
            prompt_tokens=metadata.prompt_tokens,
            completion_tokens=metadata.completion_tokens,
            attempts=0 if shared else metadata.attempts,
            shared=shared,
        )
        return LineOutcome(result, answer)

    @property
    def _elapsed_s(self) -> float:
        return (
            0.0 if self._started_at is None else self._call_options.monotonic() - self._started_at
        )


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
        client: BatchClient,
        *,
        max_attempts: int = 3,
        patience_s: float = 600.0,
        dedupe: bool | Path = False,
        overrides: RequestOverrides | None = None,
    ) -> None:
        self._client = client
        self._retry_policy = RetryPolicy(max_attempts=max_attempts, patience_s=patience_s)
        self._dedupe = dedupe
        self._overrides: RequestOverrides = overrides or {}
        self._scheduler: Scheduler[LineOutcome] | None = None

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        """See `BatchEngine.run`."""
        shared_results = (
            LruResults[LineOutcome](lambda outcome: outcome.size) if self._dedupe else None
        )
        scheduler = self._scheduler = make_scheduler(
            self._client, self._retry_policy, shared_results=shared_results
        )
        store = self._open_store()
        call_options = CallOptions(
            client=self._client, overrides=self._overrides, dedupe=bool(self._dedupe), store=store
        )
        try:
            async with aclosing(scheduler.run(_make_tasks(items, call_options))) as outcomes:
                async for outcome in outcomes:
                    yield outcome.result
        finally:
            self._scheduler = None
            if store is not None:
                await store.close()

    def drain(self) -> None:
        """See `BatchEngine.drain`."""
        if self._scheduler is not None:
            self._scheduler.drain()

    def state(self) -> EngineState:
        """See `BatchEngine.state`."""
        limiters = [service.limiter.statistics() for service in self._client.services]
        waiting = self._scheduler.queued if self._scheduler else 0
        return EngineState(
            in_flight=sum(limits.in_flight for limits in limiters),
            queued=waiting + sum(limits.queued for limits in limiters),
            limit=sum(limits.limit for limits in limiters),
            services=tuple((limits.name, limits.breaker.state) for limits in self._client.services),
        )

    def _open_store(self) -> ResponseCache | None:
        if not isinstance(self._dedupe, Path):
            return None
        from foundry_api.core.cache.sqlite import SqliteCache  # noqa: PLC0415 - few batches need it

        return SqliteCache(self._dedupe / ANSWERS_FILE, only_deterministic=False)


async def _make_tasks(
    items: AsyncIterable[WorkItem], call_options: CallOptions
) -> AsyncGenerator[FileLineTask]:
    async with closing_iter(items):
        async for item in items:
            yield FileLineTask(item, call_options)
