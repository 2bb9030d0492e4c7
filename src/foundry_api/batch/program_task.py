"""A request of a program as a task: a prompt, a conversation, or a request that says all itself."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.arguments import model_names, prompt_turns
from foundry_api.batch.ask import ask, model_of
from foundry_api.batch.bodies import checked_body
from foundry_api.batch.lines import BatchRequest, route_of
from foundry_api.batch.results import BatchResult
from foundry_api.batch.sharing import request_key
from foundry_api.batch.task import BatchTask
from foundry_api.errors import FoundryError, InvalidRequest
from foundry_api.messages import Completion
from foundry_api.replies.embeddings import Embeddings
from foundry_api.user_code import UserCode, describe
from foundry_api.values import UNENCODABLE, as_text, plain, shown

if TYPE_CHECKING:
    from foundry_api.batch.ask import Bounds
    from foundry_api.batch.results import BatchAnswer
    from foundry_api.client import FoundryAPIClient
    from foundry_api.options import ChatOptions

__all__ = ["Chat", "ItemTask"]

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
            return await ask(self._client, _checked(item), _bounds(self._options), self.group)
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


def _checked(request: BatchRequest) -> BatchRequest:
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
