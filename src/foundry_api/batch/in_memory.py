"""A batch of a program's own requests: what `client.batch` does."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

import msgspec

from foundry_api.batch.async_tools import closed_after
from foundry_api.batch.dedupe import Kept, request_key
from foundry_api.batch.dispatch import ask, model_of
from foundry_api.batch.request_body import checked_body
from foundry_api.batch.scheduler import Conditions, pump_of
from foundry_api.batch.task import BatchTask
from foundry_api.batch.types import BatchRequest, BatchResult, Failures, route_of
from foundry_api.client.chat import expectation_of
from foundry_api.core.options import ChatOptions
from foundry_api.resilience.deadline import Deadline
from foundry_api.types.checks import (
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
from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.messages import Completion
from foundry_api.types.results import Embeddings
from foundry_api.types.user_code import UserCode, describe
from foundry_api.types.values import UNENCODABLE, as_text, plain, shown

if TYPE_CHECKING:
    from foundry_api.batch.dispatch import Bounds
    from foundry_api.batch.types import BatchAnswer, BatchItem
    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.structured.expectation import Expectation

__all__ = ["Answer", "BatchOrder", "Chat", "ItemTask", "results_of"]


Chat = Callable[[Any], Awaitable[Completion[Any]]]
"""The answer to a conversation."""

_BOUNDS = frozenset({"timeout", "deadline", "download", "cache"})
_FLOAT_BYTES = 32
"""What Python takes for one number of a vector, its place in the tuple included."""


class ItemTask(BatchTask[BatchResult[Any]]):
    """One request.

    Args:
        index: Its place among the requests.
        item: The request as it was given; it is looked at when it is its turn.
        client: Makes the call.
        chat: Makes the call for a conversation.
        system: Instructions ahead of a prompt.
        options: Of every call.
        dedupe: Whether it may share the answer of an identical one.
    """

    __slots__ = ("_chat", "_client", "_custom_id", "_item", "_options", "_system")

    def __init__(
        self,
        index: int,
        item: Any,
        *,
        client: FoundryAPIClient,
        chat: Chat,
        system: str | None,
        options: ChatOptions,
        dedupe: bool,
    ) -> None:
        default = ", ".join(model_names(options.get("model"))) or client.settings.model
        is_whole = isinstance(item, BatchRequest)
        group = model_of(item, default) if is_whole else default
        super().__init__(index, group, _key(item, group) if dedupe else None)
        self._item = item
        named = as_text(item.custom_id) if is_whole else None
        self._custom_id = f"request-{index}" if named is None else named
        self._client = client
        self._chat = chat
        self._system = system
        self._options = options

    @staticmethod
    def size_of(result: BatchResult[Any]) -> int:
        """Bytes that a result takes, about."""
        match result.answer:
            case Completion(content=content, raw=raw):
                return 1024 + len(content) + sum(len(each) + 64 for each in raw)
            case Embeddings(vectors=vectors):
                return 1024 + _FLOAT_BYTES * sum(map(len, vectors))
            case answer:
                return 1024 + 2 * len(getattr(answer, "raw", b""))

    async def run(self) -> BatchResult[Any]:
        """See `BatchTask.run`."""
        code = UserCode()
        try:
            answer = await self._asked()
        except FoundryError:
            raise
        except BaseException as error:
            if not code.raised(error):
                raise
            # A conversation may be of the caller's own types, which may raise anything.
            field = f"requests[{self.index}]"
            raise InvalidRequest(
                f"{field} cannot be asked: {describe(error)}",
                field=field,
                hint="See the exception that this was raised from.",
            ) from error
        cached = isinstance(answer, Completion) and answer.cached
        return self._result(answer=answer, shared=cached)

    def failed(self, error: FoundryError) -> BatchResult[Any]:
        """See `BatchTask.failed`."""
        return self._result(error=error)

    def shared(self, result: BatchResult[Any]) -> BatchResult[Any]:
        """See `BatchTask.shared`."""
        return self._result(answer=result.answer, error=result.error, shared=True)

    def _result(self, **outcome: Any) -> BatchResult[Any]:
        return BatchResult(
            index=self.index, custom_id=self._custom_id, request=self._item, **outcome
        )

    async def _asked(self) -> BatchAnswer:
        item = self._item
        if isinstance(item, BatchRequest):
            return await ask(
                self._client, _checked_program_task(item), _bounds(self._options), self.group
            )
        return await self._chat(_turns(self.index, item, self._system))


def _bounds(options: ChatOptions) -> Bounds:
    """Those of the options that a body has no word for."""
    return cast("Bounds", {name: value for name, value in options.items() if name in _BOUNDS})


def _turns(index: int, item: Any, system: str | None) -> Any:
    if isinstance(item, str):
        return prompt_turns(item, system)
    if issubclass(type(item), Sequence) and not isinstance(item, bytes):
        return item
    field = f"requests[{index}]"
    raise InvalidRequest(
        f"{field} is of type {type(item).__name__}, neither a text nor a conversation",
        field=field,
        hint="Give a prompt, a list of messages, or a BatchRequest.",
    )


def _checked_program_task(request: BatchRequest) -> BatchRequest:
    """A request that the service can't refuse for its form."""
    if as_text(request.custom_id) is None:
        raise InvalidRequest(
            f"custom_id is {shown(request.custom_id)}, not a text", field="custom_id"
        )
    url = route_of(request.url)
    return msgspec.structs.replace(request, url=url, body=checked_body(url, _plain_body(request)))


def _plain_body(request: BatchRequest) -> dict[str, Any]:
    """A body of Python's own types."""
    if not isinstance(cast("object", request.body), Mapping):
        raise InvalidRequest(f"body is {shown(request.body)}, not a mapping", field="body")
    try:
        body: dict[str, Any] = plain(dict(request.body))
    except UnicodeEncodeError:
        return dict(request.body)  # the check of its texts tells which one it is
    except UNENCODABLE as error:
        raise InvalidRequest(f"body cannot be sent as JSON: {error}", field="body") from error
    return body


def _key(item: Any, group: str) -> bytes | None:
    """The same for requests that ask the same; None for one that cannot be told from others."""
    try:
        if isinstance(item, BatchRequest):
            return request_key(item, group)
        return hashlib.blake2b(msgspec.json.encode(item), digest_size=16).digest()
    except Exception:  # noqa: BLE001 - it may be of the caller's own types; asking it says what is wrong
        return None


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
