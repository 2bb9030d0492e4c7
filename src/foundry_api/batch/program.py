"""A batch of a program's own requests: what `client.batch` does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from foundry_api.arguments import (
    chat_request,
    check_cache,
    check_known,
    check_range,
    check_repairs,
    check_text,
    check_timeout,
    prompt_turns,
)
from foundry_api.batch.assembly import Conditions, pump_of
from foundry_api.batch.keywords import Failures
from foundry_api.batch.lines import BatchRequest
from foundry_api.batch.program_task import ItemTask
from foundry_api.batch.sharing import Kept
from foundry_api.errors import InvalidRequest
from foundry_api.options import ChatOptions

if TYPE_CHECKING:
    from foundry_api.batch.results import BatchItem, BatchResult
    from foundry_api.client import FoundryAPIClient

__all__ = ["BatchOrder", "results_of"]

BREATH = 16
"""Requests of a plain iterable that are taken before everything else gets its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """What a caller of `client.batch` ordered.

    Attributes:
        system: Instructions ahead of each prompt.
        wanted: What the answers to prompts have to be, as `chat` takes it.
        options: See `ChatOptions`.
        ordered: Whether the results keep the order of the requests.
        errors: Whether a failure is a result, or is raised.
        dedupe: Whether identical requests are made once.
        attempts: How often a request that failed for a passing reason is begun.
        patience_s: Seconds that all services may be away.
    """

    system: str | None
    wanted: dict[str, Any]
    options: ChatOptions
    ordered: bool
    errors: Failures
    dedupe: bool
    attempts: int
    patience_s: float


def results_of(
    client: FoundryAPIClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    order: BatchOrder,
) -> AsyncGenerator[BatchResult[Any]]:
    """The results of a batch.

    Raises:
        InvalidRequest: An argument is at fault; at once. The rest while iterating.
    """
    _check(requests, order)
    return _results(client, requests, order)


async def _results(
    client: FoundryAPIClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    order: BatchOrder,
) -> AsyncGenerator[BatchResult[Any]]:
    kept = Kept["BatchResult[Any]"](ItemTask.size_of) if order.dedupe else None
    conditions = Conditions(attempts=order.attempts, patience_s=order.patience_s)
    pump = pump_of(client, conditions, kept=kept, ordered=order.ordered)
    async with aclosing(pump.results(_tasks(client, requests, order))) as results:
        async for result in results:
            if result.error is not None and order.errors == "raise":
                raise result.error
            yield result


async def _tasks(
    client: FoundryAPIClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    order: BatchOrder,
) -> AsyncGenerator[ItemTask]:
    index = 0
    async with aclosing(_each(requests)) as items:
        async for item in items:
            yield ItemTask(
                index,
                item,
                client=client,
                system=order.system,
                wanted=order.wanted,
                options=order.options,
                dedupe=order.dedupe,
            )
            index += 1


async def _each(
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
) -> AsyncGenerator[BatchItem]:
    if isinstance(requests, AsyncIterable):
        async with AsyncExitStack() as stack:
            if isinstance(requests, AsyncGenerator):
                stack.push_async_callback(requests.aclose)
            async for item in requests:
                yield item
        return
    for count, item in enumerate(requests):
        if count % BREATH == 0:
            await asyncio.sleep(0)
        yield item


def _check(requests: Any, order: BatchOrder) -> None:
    """Refuse what no request could be made with."""
    kind = cast("type[object]", type(requests))
    if issubclass(kind, str | bytes | Mapping | BatchRequest) or not issubclass(
        kind, Iterable | AsyncIterable
    ):
        raise InvalidRequest(
            f"requests is of type {kind.__name__}, not several requests",
            field="requests",
            hint="Give a list, or anything to iterate over; for one prompt there is complete().",
        )
    if order.system is not None:
        check_text("system", order.system)
    if order.errors not in get_args(Failures):
        raise InvalidRequest(
            f"errors is {order.errors!r}, but must be 'results' or 'raise'", field="errors"
        )
    check_range("patience", order.patience_s, 0, math.inf)
    check_range("attempts", order.attempts, 1, math.inf)
    _check_options(order.options)
    _check_wanted(**order.wanted)


def _check_options(options: ChatOptions) -> None:
    check_known(options, ChatOptions.__annotations__.keys())
    check_timeout(options.get("timeout"))
    check_cache(options.get("cache", "auto"))
    told = {
        name: value
        for name, value in options.items()
        if name not in {"model", "timeout", "deadline", "download", "cache"}
    }
    chat_request(prompt_turns("?"), **cast("dict[str, Any]", told))


def _check_wanted(*, repairs: int, **wanted: Any) -> None:
    check_repairs(repairs)
    if any(each is not None and each != () for each in wanted.values()):
        from foundry_api.structured.expectation import Expectation  # noqa: PLC0415 - few need it

        Expectation.of(**wanted)
