"""Implement `client.batch`: a batch of requests in memory."""

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

from foundry_api.batch.async_tools import closing_iter
from foundry_api.batch.dedupe import LruResults, make_request_key
from foundry_api.batch.dispatch import dispatch, get_model
from foundry_api.batch.request_body import validate_body
from foundry_api.batch.scheduler import make_scheduler
from foundry_api.batch.task import BatchTask
from foundry_api.batch.types import BatchRequest, BatchResult, Failures, parse_route
from foundry_api.core.chat import make_chat_request, make_output_spec
from foundry_api.core.options import ChatOptions
from foundry_api.resilience.deadline import Deadline
from foundry_api.types.checks import (
    check_cache,
    check_flag,
    check_instructions,
    check_int,
    check_model_names,
    check_range,
    check_repairs,
    check_timeout,
    prompt_to_messages,
    reject_unknown_options,
)
from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.messages import Completion
from foundry_api.types.results import Embeddings
from foundry_api.types.user_code import UserCode, describe
from foundry_api.types.values import UNENCODABLE, as_text, format_value, to_plain

if TYPE_CHECKING:
    from foundry_api.batch.dispatch import RequestOverrides
    from foundry_api.batch.protocol import BatchClient
    from foundry_api.batch.types import BatchAnswer, BatchItem
    from foundry_api.structured.output_spec import OutputSpec

__all__ = ["BatchCallOptions", "ChatCallable", "ChatFunction", "RequestTask", "run_requests"]

# Sends a conversation and returns its answer.
ChatFunction = Callable[[Any], Awaitable[Completion[Any]]]

_OVERRIDE_OPTIONS = frozenset({"timeout", "deadline", "download", "cache"})
_FLOAT_BYTES = 32  # Python's memory for one number of a vector, with its place in the tuple

# Reading a plain iterable never suspends: after this many requests, other tasks may run.
YIELD_EVERY = 16


class ChatCallable(Protocol):
    """The client's method that sends a conversation."""

    def __call__(
        self,
        messages: Any,
        options: ChatOptions,
        max_repairs: int,
        expectation: OutputSpec | None,
    ) -> Awaitable[Completion[Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCallOptions:
    """The arguments of `client.batch`."""

    system: str | None
    output_arguments: dict[str, Any]  # of `chat`, about the form of answers, without `max_repairs`
    max_repairs: int
    options: ChatOptions
    ordered: bool
    errors: Failures
    dedupe: bool
    max_attempts: int
    patience_s: float


def run_requests(
    client: BatchClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    call_options: BatchCallOptions,
    complete_chat: ChatCallable,
) -> AsyncGenerator[BatchResult[Any]]:
    """Return an iterator over the results. Invalid arguments raise an error at once."""
    call_options = _validate_options(requests, call_options)
    # Once for all requests: it may have to compile a schema.
    expectation = make_output_spec(**call_options.output_arguments)
    chat = partial(
        complete_chat,
        options=call_options.options,
        max_repairs=call_options.max_repairs,
        expectation=expectation,
    )
    return _iter_results(client, requests, call_options, chat)


async def _iter_results(
    client: BatchClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    call_options: BatchCallOptions,
    chat: ChatFunction,
) -> AsyncGenerator[BatchResult[Any]]:
    shared_results = (
        LruResults["BatchResult[Any]"](RequestTask.get_size) if call_options.dedupe else None
    )
    scheduler = make_scheduler(
        client,
        max_attempts=call_options.max_attempts,
        patience_s=call_options.patience_s,
        shared_results=shared_results,
        ordered=call_options.ordered,
    )
    async with aclosing(
        scheduler.run(_make_tasks(client, requests, call_options, chat))
    ) as results:
        async for result in results:
            if result.error is not None and call_options.errors == "raise":
                raise result.error
            yield result


async def _make_tasks(
    client: BatchClient,
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
    call_options: BatchCallOptions,
    chat: ChatFunction,
) -> AsyncGenerator[RequestTask]:
    index = 0
    async with aclosing(_iter_requests(requests)) as items:
        async for item in items:
            yield RequestTask(
                index,
                item,
                client=client,
                chat=chat,
                system=call_options.system,
                options=call_options.options,
                dedupe=call_options.dedupe,
            )
            index += 1


async def _iter_requests(
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
) -> AsyncGenerator[BatchItem]:
    if isinstance(requests, AsyncIterable):
        async with closing_iter(requests):
            async for item in requests:
                yield item
        return
    for count, item in enumerate(requests):
        if count % YIELD_EVERY == 0:
            await asyncio.sleep(0)
        yield item


def _validate_options(requests: Any, call_options: BatchCallOptions) -> BatchCallOptions:
    """Check the arguments, and convert them to plain Python types."""
    requests_type = cast("type[object]", type(requests))
    if issubclass(requests_type, str | bytes | Mapping | BatchRequest) or not issubclass(
        requests_type, Iterable | AsyncIterable
    ):
        raise InvalidRequest(
            f"requests is of type {requests_type.__name__}, not an iterable of requests",
            field="requests",
            hint="Give a list or another iterable; for a single prompt use complete().",
        )
    if call_options.errors not in get_args(Failures):
        raise InvalidRequest(
            f"errors is {call_options.errors!r}, but must be 'results' or 'raise'", field="errors"
        )
    options = call_options.options
    reject_unknown_options(options, ChatOptions.__annotations__.keys())
    check_timeout(options.get("timeout"))
    check_cache(options.get("cache", "auto"))
    check_flag("download", options.get("download"))
    check_model_names(options.get("model"))
    Deadline.after(options.get("deadline"))
    # The other options are checked as those of a call, with any prompt.
    chat_arguments: dict[str, Any] = {
        name: value for name, value in options.items() if name not in {"model", *_OVERRIDE_OPTIONS}
    }
    make_chat_request(prompt_to_messages("?"), **chat_arguments)
    for name, value in (
        ("patience", call_options.patience_s),
        ("max_attempts", call_options.max_attempts),
    ):
        if cast("object", value) is None:
            raise InvalidRequest(f"{name} is None, not a number", field=name)
    return replace(
        call_options,
        system=check_instructions("system", call_options.system),
        patience_s=cast("float", check_range("patience", call_options.patience_s, 0, math.inf)),
        max_attempts=cast("int", check_int("max_attempts", call_options.max_attempts, 1, math.inf)),
        max_repairs=check_repairs(call_options.max_repairs),
        ordered=check_flag("ordered", call_options.ordered),
        dedupe=check_flag("dedupe", call_options.dedupe),
    )


class RequestTask(BatchTask[BatchResult[Any]]):
    """One request. It is validated when its turn comes, so that an invalid one fails alone."""

    __slots__ = ("_chat", "_client", "_custom_id", "_item", "_options", "_system")

    def __init__(
        self,
        index: int,
        item: Any,
        *,
        client: BatchClient,
        chat: ChatFunction,
        system: str | None,
        options: ChatOptions,
        dedupe: bool,
    ) -> None:
        default = ", ".join(check_model_names(options.get("model"))) or client.settings.model
        is_request = isinstance(item, BatchRequest)
        group = get_model(item, default) if is_request else default
        super().__init__(index, group, _make_key(item, group) if dedupe else None)
        self._item = item
        custom_id = as_text(item.custom_id) if is_request else None
        self._custom_id = f"request-{index}" if custom_id is None else custom_id
        self._client = client
        self._chat = chat
        self._system = system
        self._options = options

    @staticmethod
    def get_size(result: BatchResult[Any]) -> int:
        """Return the approximate size in bytes."""
        match result.answer:
            case Completion(content=content, raw=raw):
                return 1024 + len(content) + sum(len(chunk) + 64 for chunk in raw)
            case Embeddings(vectors=vectors):
                return 1024 + _FLOAT_BYTES * sum(map(len, vectors))
            case answer:
                return 1024 + 2 * len(getattr(answer, "raw", b""))

    async def run(self) -> BatchResult[Any]:
        code = UserCode()
        try:
            answer = await self._call()
        except FoundryError:
            raise
        except BaseException as error:
            if not code.is_own_failure(error):
                raise
            # A conversation may consist of the caller's own types, which may raise anything.
            field = f"requests[{self.index}]"
            raise InvalidRequest(
                f"{field} cannot be sent: {describe(error)}",
                field=field,
                hint="See the cause of this exception.",
            ) from error
        cached = isinstance(answer, Completion) and answer.cached
        return self._make_result(answer=answer, shared=cached)

    def make_failed_result(self, error: FoundryError) -> BatchResult[Any]:
        return self._make_result(error=error)

    def make_shared_result(self, result: BatchResult[Any]) -> BatchResult[Any]:
        return self._make_result(answer=result.answer, error=result.error, shared=True)

    def _make_result(self, **outcome: Any) -> BatchResult[Any]:
        return BatchResult(
            index=self.index, custom_id=self._custom_id, request=self._item, **outcome
        )

    async def _call(self) -> BatchAnswer:
        item = self._item
        if isinstance(item, BatchRequest):
            overrides = {
                name: value for name, value in self._options.items() if name in _OVERRIDE_OPTIONS
            }
            return await dispatch(
                self._client,
                _validate_request(item),
                cast("RequestOverrides", overrides),
                self.group,
            )
        if isinstance(item, str):
            return await self._chat(prompt_to_messages(item, self._system))
        if issubclass(type(item), Sequence) and not isinstance(item, bytes):
            return await self._chat(item)
        field = f"requests[{self.index}]"
        raise InvalidRequest(
            f"{field} is of type {type(item).__name__}, neither a string nor a conversation",
            field=field,
            hint="Give a prompt, a list of messages, or a BatchRequest.",
        )


def _validate_request(request: BatchRequest) -> BatchRequest:
    """Return the request with a body of plain Python types that services accept."""
    if as_text(request.custom_id) is None:
        raise InvalidRequest(
            f"custom_id is {format_value(request.custom_id)}, not a string", field="custom_id"
        )
    url = parse_route(request.url)
    if not isinstance(cast("object", request.body), Mapping):
        raise InvalidRequest(f"body is {format_value(request.body)}, not a mapping", field="body")
    try:
        body: dict[str, Any] = to_plain(dict(request.body))
    except UnicodeEncodeError:
        body = dict(request.body)  # the check below names the text that cannot be encoded
    except UNENCODABLE as error:
        raise InvalidRequest(f"body cannot be sent as JSON: {error}", field="body") from error
    return msgspec.structs.replace(request, url=url, body=validate_body(url, body))


def _make_key(item: Any, group: str) -> bytes | None:
    """Return a key that is equal for identical requests; None if it cannot be computed."""
    try:
        if isinstance(item, BatchRequest):
            return make_request_key(item, group)
        return hashlib.blake2b(msgspec.json.encode(item), digest_size=16).digest()
    except Exception:  # noqa: BLE001 - it may be of the caller's types; sending it reports what is wrong
        return None
