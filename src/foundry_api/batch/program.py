"""A batch of a program's own requests: what `client.batch` does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

from foundry_api.arguments import (
    chat_request,
    check_cache,
    check_flag,
    check_known,
    check_range,
    check_repairs,
    check_timeout,
    check_whole,
    instructions,
    model_names,
    prompt_turns,
)
from foundry_api.batch.assembly import Conditions, pump_of
from foundry_api.batch.closing import closed_after
from foundry_api.batch.keywords import Failures
from foundry_api.batch.lines import BatchRequest
from foundry_api.batch.program_task import ItemTask
from foundry_api.batch.sharing import Kept
from foundry_api.chat_methods import expectation_of
from foundry_api.errors import InvalidRequest
from foundry_api.options import ChatOptions
from foundry_api.resilience.deadline import Deadline

if TYPE_CHECKING:
    from foundry_api.batch.program_task import Chat
    from foundry_api.batch.results import BatchItem, BatchResult
    from foundry_api.client import FoundryAPIClient
    from foundry_api.messages import Completion
    from foundry_api.structured.expectation import Expectation

__all__ = ["Answer", "BatchOrder", "results_of"]


class Answer(Protocol):
    """The client's call for a conversation, where it is known what its answer has to be."""

    def __call__(
        self,
        messages: Any,
        options: ChatOptions,
        repairs: int,
        expectation: Expectation | None,
    ) -> Awaitable[Completion[Any]]:
        """The answer."""
        ...


BREATH = 16
"""Requests of a plain iterable that are taken before everything else gets its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOrder:
    """What a caller of `client.batch` ordered.

    Attributes:
        system: Instructions ahead of each prompt.
        wanted: What the answers to prompts have to be, as `chat` takes it, without `repairs`.
        repairs: How often such an answer that does not pass is asked for again.
        options: See `ChatOptions`.
        ordered: Whether the results keep the order of the requests.
        errors: Whether a failure is a result, or is raised.
        dedupe: Whether identical requests are made once.
        attempts: How often a request that failed for a passing reason is begun.
        patience_s: Seconds that all services may be away.
    """

    system: str | None
    wanted: dict[str, Any]
    repairs: int
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
    answer: Answer,
) -> AsyncGenerator[BatchResult[Any]]:
    """The results of a batch.

    Args:
        client: Makes the calls.
        requests: What is asked.
        order: How.
        answer: Makes the client's call for a conversation.

    Raises:
        InvalidRequest: An argument is at fault; at once. The rest while iterating.
    """
    order = _checked(requests, order)
    expectation = expectation_of(**order.wanted)  # once: it may be a schema to be compiled
    chat = partial(answer, options=order.options, repairs=order.repairs, expectation=expectation)
    return _results(client, requests, order, chat)


async def _results(
    client: FoundryAPIClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    order: BatchOrder,
    chat: Chat,
) -> AsyncGenerator[BatchResult[Any]]:
    kept = Kept["BatchResult[Any]"](ItemTask.size_of) if order.dedupe else None
    conditions = Conditions(attempts=order.attempts, patience_s=order.patience_s)
    pump = pump_of(client, conditions, kept=kept, ordered=order.ordered)
    async with aclosing(pump.results(_tasks(client, requests, order, chat))) as results:
        async for result in results:
            if result.error is not None and order.errors == "raise":
                raise result.error
            yield result


async def _tasks(
    client: FoundryAPIClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    order: BatchOrder,
    chat: Chat,
) -> AsyncGenerator[ItemTask]:
    index = 0
    async with aclosing(_each(requests)) as items:
        async for item in items:
            yield ItemTask(
                index,
                item,
                client=client,
                chat=chat,
                system=order.system,
                options=order.options,
                dedupe=order.dedupe,
            )
            index += 1


async def _each(
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
) -> AsyncGenerator[BatchItem]:
    if isinstance(requests, AsyncIterable):
        async with closed_after(requests):
            async for item in requests:
                yield item
        return
    for count, item in enumerate(requests):
        if count % BREATH == 0:
            await asyncio.sleep(0)
        yield item


def _checked(requests: Any, order: BatchOrder) -> BatchOrder:
    """The order with values of Python's own types.

    Raises:
        InvalidRequest: No request could be made with one of them.
    """
    kind = cast("type[object]", type(requests))
    if issubclass(kind, str | bytes | Mapping | BatchRequest) or not issubclass(
        kind, Iterable | AsyncIterable
    ):
        raise InvalidRequest(
            f"requests is of type {kind.__name__}, not several requests",
            field="requests",
            hint="Give a list, or anything to iterate over; for one prompt there is complete().",
        )
    if order.errors not in get_args(Failures):
        raise InvalidRequest(
            f"errors is {order.errors!r}, but must be 'results' or 'raise'", field="errors"
        )
    _check_options(order.options)
    for name, value in (("patience", order.patience_s), ("attempts", order.attempts)):
        if cast("object", value) is None:
            raise InvalidRequest(f"{name} is None, not a number", field=name)
    return replace(
        order,
        system=instructions("system", order.system),
        patience_s=cast("float", check_range("patience", order.patience_s, 0, math.inf)),
        attempts=cast("int", check_whole("attempts", order.attempts, 1, math.inf)),
        repairs=check_repairs(order.repairs),
        ordered=check_flag("ordered", order.ordered),
        dedupe=check_flag("dedupe", order.dedupe),
    )


def _check_options(options: ChatOptions) -> None:
    check_known(options, ChatOptions.__annotations__.keys())
    check_timeout(options.get("timeout"))
    check_cache(options.get("cache", "auto"))
    check_flag("download", options.get("download"))
    model_names(options.get("model"))
    Deadline.after(options.get("deadline"))
    told = {
        name: value
        for name, value in options.items()
        if name not in {"model", "timeout", "deadline", "download", "cache"}
    }
    chat_request(prompt_turns("?"), **cast("dict[str, Any]", told))
