"""Answer the lines of files with the engines of a client."""

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
    encode_response,
    extract_metadata,
    make_error_result,
    make_success_line,
)
from foundry_api.batch.scheduler import make_scheduler
from foundry_api.batch.task import BatchTask
from foundry_api.batch.types import BatchLineResult
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

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
    """The state of an engine at one moment."""

    in_flight: int = 0  # requests that the services are answering
    queued: int = 0  # lines and requests that wait
    limit: int | None = None  # the most requests in flight; None if the engine sets no limit
    # Each service's name, and the state of its breaker: closed, open or half-open.
    services: tuple[tuple[str, str], ...] = ()


class BatchEngine(Protocol):
    """Answers lines."""

    # An engine takes no more lines than keep its services busy. `run` raises an error if services
    # are unreachable for too long, or if every line would fail, as with an unknown model. Lines
    # without a result are then unfinished.
    def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        """Yield each result once, as lines finish. Closing the generator stops the engine."""
        ...

    def drain(self) -> None:
        """Start no more lines; those in flight still finish."""
        ...

    def get_state(self) -> EngineState: ...


class CachedAnswer(msgspec.Struct, frozen=True):
    """An answer without the line that it belongs to."""

    metadata: ResultMetadata
    body: msgspec.Raw  # the JSON object of the response


class LineOutcome(msgspec.Struct, frozen=True):
    """The result of a line, with what identical lines need to share it."""

    result: BatchLineResult  # for the journal
    answer: CachedAnswer | None = None  # for identical lines
    error: FoundryError | None = None

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return 512 + 2 * len(self.result.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How the lines of one run are answered."""

    client: BatchClient
    overrides: RequestOverrides
    dedupe: bool = False
    # Stores shared answers beyond this process; None for no store.
    store: ResponseCache | None = None


_DECODER = msgspec.json.Decoder(CachedAnswer)
_ENCODER = msgspec.json.Encoder()


class FileLineTask(BatchTask[LineOutcome]):
    """A line of a file as a task of the scheduler."""

    __slots__ = ("_call_options", "_failed_requests", "_item", "_started_at")

    def __init__(self, item: WorkItem, call_options: CallOptions) -> None:
        model = get_model(item.request, call_options.client.settings.model)
        key = make_request_key(item.request, model) if call_options.dedupe else None
        super().__init__(item.line.index, model, key)
        self._item = item
        self._call_options = call_options
        self._started_at: float | None = None
        # HTTP requests of the calls that failed. The scheduler may run a line several times, and
        # each of these calls sends further requests by itself.
        self._failed_requests = 0

    async def run(self) -> LineOutcome:
        if self._started_at is None:  # a retry counts from the first attempt
            self._started_at = time.monotonic()
        store, cache_key = self._call_options.store, (self.key or b"").hex()
        if store is not None and (saved := await store.get(cache_key)) is not None:
            return self._make_outcome(_DECODER.decode(saved), shared=True)
        call_options, request = self._call_options, self._item.request
        try:
            response = await dispatch(
                call_options.client, request, call_options.overrides, self.group
            )
        except FoundryError as error:
            self._failed_requests += error.attempts
            raise
        answer = CachedAnswer(
            extract_metadata(response),
            msgspec.Raw(encode_response(request, response, time.time())),
        )
        if store is not None:
            await store.put(cache_key, _ENCODER.encode(answer), model=answer.metadata.model)
        return self._make_outcome(answer, shared=answer.metadata.shared)

    def make_failed_result(self, error: FoundryError) -> LineOutcome:
        line, request = self._item.line, self._item.request
        result = make_error_result(
            line.index,
            line.digest,
            request.custom_id,
            error,
            at=time.time(),
            model=self.group,
            duration_s=self._elapsed_s,
            attempts=self._failed_requests,
        )
        return LineOutcome(result, error=error)

    def make_shared_result(self, result: LineOutcome) -> LineOutcome:
        if result.answer is not None:
            return self._make_outcome(result.answer, shared=True)
        if result.error is not None:
            return self.make_failed_result(result.error)
        return result

    def _make_outcome(self, answer: CachedAnswer, *, shared: bool) -> LineOutcome:
        # A shared answer took no time of the service: only the line that was sent counts for that.
        line, metadata = self._item.line, answer.metadata
        result = BatchLineResult(
            index=line.index,
            digest=line.digest,
            output=make_success_line(self._item.request, answer.body),
            failed=False,
            at=time.time(),
            model=metadata.model,
            duration_s=self._elapsed_s,
            queued_s=0.0 if shared else metadata.queued_s,
            time_to_first_token_s=None if shared else metadata.time_to_first_token_s,
            prompt_tokens=metadata.prompt_tokens,
            completion_tokens=metadata.completion_tokens,
            attempts=self._failed_requests + (0 if shared else metadata.attempts),
            shared=shared,
        )
        return LineOutcome(result, answer)

    @property
    def _elapsed_s(self) -> float:
        return 0.0 if self._started_at is None else time.monotonic() - self._started_at


class LocalEngine:
    """A `BatchEngine` that sends lines through a client in this process."""

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
        self._max_attempts = max_attempts
        self._patience_s = patience_s
        self._dedupe = dedupe
        self._overrides: RequestOverrides = overrides or {}
        self._scheduler: Scheduler[LineOutcome] | None = None

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        shared_results = (
            LruResults[LineOutcome](lambda outcome: outcome.size) if self._dedupe else None
        )
        scheduler = self._scheduler = make_scheduler(
            self._client,
            max_attempts=self._max_attempts,
            patience_s=self._patience_s,
            shared_results=shared_results,
        )
        store: ResponseCache | None = None
        if isinstance(self._dedupe, Path):  # the directory of a journal: later runs reuse answers
            from foundry_api.core.cache.sqlite import SqliteCache  # noqa: PLC0415 - few need it

            store = SqliteCache(self._dedupe / ANSWERS_FILE, only_deterministic=False)
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
        if self._scheduler is not None:
            self._scheduler.drain()

    def get_state(self) -> EngineState:
        limiters = [service.limiter.statistics() for service in self._client.services]
        waiting = self._scheduler.queued if self._scheduler else 0
        return EngineState(
            in_flight=sum(limits.in_flight for limits in limiters),
            queued=waiting + sum(limits.queued for limits in limiters),
            limit=sum(limits.limit for limits in limiters),
            services=tuple(
                (service.name, service.breaker.state) for service in self._client.services
            ),
        )


async def _make_tasks(
    items: AsyncIterable[WorkItem], call_options: CallOptions
) -> AsyncGenerator[FileLineTask]:
    async with closing_iter(items):
        async for item in items:
            yield FileLineTask(item, call_options)
