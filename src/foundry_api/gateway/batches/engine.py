"""Answers the lines of a batch as the routes of the gateway answer requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import msgspec
from msgspec import structs

from foundry_api.batch.async_tools import closing_iter
from foundry_api.batch.engine import EngineState
from foundry_api.batch.failures import classify_failure
from foundry_api.batch.scheduler import make_scheduler
from foundry_api.batch.task import BatchTask
from foundry_api.batch.types import BatchLineResult
from foundry_api.gateway.errors import RequestError, translate_error
from foundry_api.gateway.exchange import DEADLINE_MARGIN_S, Exchange, make_request_id
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from aiohttp import web

    from foundry_api.batch.scheduler import Scheduler
    from foundry_api.batch.types import WorkItem
    from foundry_api.gateway.batches.line_forms import LineForm, Unfinished
    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.limits.admission import Ticket, Work
    from foundry_api.gateway.response import Response

__all__ = ["GatewayEngine", "make_unfinished_result"]

# Longest time until the budgets of a key are looked at again: its limits may have been raised.
MAX_BUDGET_WAIT_S = 10.0
SPACE_WAIT_S = 10.0
# A service that goes away is waited for as long as a batch may take.
PATIENCE_S = 86_400.0
MAX_ATTEMPTS = 3

KeyFinder = Callable[[], "ApiKey | None"]


@dataclass(frozen=True, slots=True)
class _LineRequest:
    """What handlers read of a request, besides its body."""

    content_length: int
    headers: dict[str, str]


class LineExchange(Exchange):
    """A line of a batch, for the handler of its route."""

    __slots__ = ()

    def __init__(
        self, context: GatewayContext, key: ApiKey | None, body: bytes, route: str
    ) -> None:
        request = _LineRequest(len(body), {"Content-Type": "application/json"})
        super().__init__(context, cast("web.BaseRequest", request))
        self._body = body
        self.key = key
        self.route = route

    def admit(self, work: Work) -> Ticket:
        """Admit the line: below all calls, without a limit for the time that it waits."""
        self.model: str | None = work.model
        work = structs.replace(self.add_alias(work), is_batch=True)
        ticket = self.context.admission.admit(self.key, work)
        self.ticket: Ticket | None = ticket
        return ticket

    @property
    def remaining_s(self) -> float:
        """Seconds for a call, from its slot on."""
        return self.context.config.call_timeout_s + DEADLINE_MARGIN_S


class _LineTask(BatchTask[BatchLineResult]):
    """A line as a task of the scheduler."""

    __slots__ = ("_context", "_find_key", "_form", "_item", "_owner", "_started_at")

    def __init__(
        self,
        item: WorkItem,
        context: GatewayContext,
        form: LineForm,
        owner: str | None,
        find_key: KeyFinder,
    ) -> None:
        model = item.request.body.get("model") or context.config.model or ""
        super().__init__(item.line.index, str(model))
        self._item = item
        self._context = context
        self._form = form
        self._owner = owner
        self._find_key = find_key
        self._started_at = time.monotonic()

    async def run(self) -> BatchLineResult:
        context, form = self._context, self._form
        body = msgspec.json.encode(form.prepare(self._item.request.body))
        while not context.files.has_space(self._owner):  # noqa: ASYNC110 - without an event
            await asyncio.sleep(SPACE_WAIT_S)
        while True:
            key = await self._get_key()
            if key is not None and key.models is not None:
                await context.model_names.load()
            exchange = LineExchange(context, key, body, form.route)
            try:
                response = await form.handler(exchange)
            except RequestError as error:
                exchange.outcome = error.code or "error"
                if error.status != 429:  # noqa: PLR2004 - the key has used its tokens
                    return self._make_failed(error)
                wait_s = min(error.retry_after_s or 1.0, MAX_BUDGET_WAIT_S)
            except FoundryError as error:
                refusal = translate_error(error)
                exchange.outcome = refusal.code or "error"
                # A model that is not here is not downloaded, so it will not be there later.
                if classify_failure(error) == "line" or refusal.code == "model_not_found":
                    return self._make_failed(refusal)
                raise
            else:
                return self._make_result(exchange, cast("Response", response))
            finally:
                if exchange.ticket is not None:
                    context.metrics.record(exchange, context.monotonic())
                exchange.close()
            await asyncio.sleep(wait_s)

    async def _get_key(self) -> ApiKey | None:
        # Each time anew, as its limits may have changed.
        try:
            return self._find_key()
        except LookupError:
            # It was revoked: the manager of the batches is about to end this one.
            await asyncio.get_running_loop().create_future()
            raise

    def make_failed_result(self, error: FoundryError) -> BatchLineResult:
        return self._make_failed(translate_error(error))

    def make_shared_result(self, result: BatchLineResult) -> BatchLineResult:
        return result  # tasks have no keys, so none shares an answer

    def _make_result(self, exchange: LineExchange, response: Response) -> BatchLineResult:
        ticket = exchange.ticket
        return BatchLineResult(
            index=self.index,
            digest=self._item.line.digest,
            output=self._form.make_answer(
                self._item.request.custom_id, exchange.id, response.body or b""
            ),
            failed=False,
            at=self._context.wall_clock(),
            model=self.group,
            duration_s=time.monotonic() - self._started_at,
            queued_s=ticket.queued_s if ticket else 0.0,
            prompt_tokens=ticket.prompt_tokens if ticket else 0,
            completion_tokens=ticket.output_tokens if ticket else 0,
            attempts=1,
        )

    def _make_failed(self, error: RequestError) -> BatchLineResult:
        return BatchLineResult(
            index=self.index,
            digest=self._item.line.digest,
            output=self._form.make_failure(self._item.request.custom_id, make_request_id(), error),
            failed=True,
            at=self._context.wall_clock(),
            model=self.group,
            duration_s=time.monotonic() - self._started_at,
            attempts=1,
            code=error.code or "error",
        )


class GatewayEngine:
    """A `BatchEngine` that sends lines through the handlers of the gateway.

    Args:
        context: The parts of the gateway.
        form: How the lines are answered.
        owner: The id of the key of the batch; None without keys.
        find_key: Returns the key of the batch, None without keys; raises LookupError if it ended.
    """

    def __init__(
        self, context: GatewayContext, form: LineForm, owner: str | None, find_key: KeyFinder
    ) -> None:
        self._context = context
        self._form = form
        self._owner = owner
        self._find_key = find_key
        self._scheduler: Scheduler[BatchLineResult] | None = None

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        try:
            key = self._find_key()
        except LookupError:
            key = None
        scheduler = self._scheduler = make_scheduler(
            self._context.client,
            max_attempts=MAX_ATTEMPTS,
            patience_s=PATIENCE_S,
            max_in_flight=None if key is None else key.parallel,
        )
        try:
            async with aclosing(scheduler.run(self._make_tasks(items))) as results:
                async for result in results:
                    yield result
        finally:
            self._scheduler = None

    def drain(self) -> None:
        if self._scheduler is not None:
            self._scheduler.drain()

    def get_state(self) -> EngineState:
        return EngineState()

    async def _make_tasks(self, items: AsyncIterable[WorkItem]) -> AsyncGenerator[_LineTask]:
        async with closing_iter(items):
            async for item in items:
                yield _LineTask(item, self._context, self._form, self._owner, self._find_key)


def make_unfinished_result(
    item: WorkItem, form: LineForm, ending: Unfinished, at: float
) -> BatchLineResult:
    """Return the result of a line that was not answered before the batch ended."""
    return BatchLineResult(
        index=item.line.index,
        digest=item.line.digest,
        output=form.make_unfinished(item.request.custom_id, ending),
        failed=True,
        at=at,
        code=f"batch_{ending}",
    )
