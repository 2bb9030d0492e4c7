"""The dialect of SDK 2.1 and later: a C++ core behind oatpp, probed on 2.2.1.

What is peculiar to it: two catalogs with routes of their own (plain for Microsoft's, a prefix for
directories registered on this machine); load and unload take the alias while inference takes the
full id; path variables are not percent-decoded; a stream that fails says so in a 200.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from foundry_api.errors import (
    CatalogUnavailable,
    ModelLoadFailed,
    ProtocolError,
    StreamInterrupted,
    classify,
)
from foundry_api.messages import Chunk, FinishReason, Model, Usage
from foundry_api.wire.dialects.base import ServiceStatus
from foundry_api.wire.sse import EventDecoder

if TYPE_CHECKING:
    from foundry_api.messages import ChatRequest, Generation
    from foundry_api.wire.dialects.base import Catalog, ChatDecoder, Wire
    from foundry_api.wire.transport import Request

__all__ = ["Sdk21Dialect"]

_PREFIX: dict[Catalog, str] = {"local": "/catalogs/local", "public": ""}

QUICK_TIMEOUT_S = 10.0
"""For routes that answer in milliseconds, also while the engine generates."""

CATALOG_TIMEOUT_S = 60.0
"""The first call that touches the public catalog waits for it: 4 s offline, more behind proxies."""

LOAD_TIMEOUT_S = 900.0
"""Large models take minutes to load from a cold disk."""

_T = TypeVar("_T")
_DONE = b"[DONE]"


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: FinishReason | None = None


class _Error(msgspec.Struct):
    message: str = ""
    type: str = "server_error"


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Error | None = None


class _Status(msgspec.Struct):
    pid: int | None = None
    cache_dir: str | None = msgspec.field(default=None, name="modelCachePath")


class _Listed(msgspec.Struct):
    id: str


class _Listing(msgspec.Struct):
    data: list[_Listed]


_STATUS = msgspec.json.Decoder(_Status)
_EVENT = msgspec.json.Decoder(_Event)
_LISTING = msgspec.json.Decoder(_Listing)
_IDS: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])
_ENCODER = msgspec.json.Encoder()


class Sdk21Dialect:
    """Speaks to one service of SDK 2.1 or later.

    Args:
        wire: How to reach it.
    """

    generation: Generation = "sdk-2.1"

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def status(self) -> ServiceStatus:
        """Liveness; answered in under a millisecond, also while the engine generates."""
        body = await self._wire.get("/status", timeout_s=QUICK_TIMEOUT_S)
        status = self._decode(_STATUS, body)
        return ServiceStatus(self.generation, status.pid, status.cache_dir)

    async def local_models(self) -> list[Model]:
        """Models registered on this machine."""
        return await self._models("local", QUICK_TIMEOUT_S)

    async def public_models(self) -> list[Model]:
        """Models of Microsoft's catalog. One that cannot be reached is answered as an empty one."""
        models = await self._models("public", CATALOG_TIMEOUT_S)
        if not models:
            raise CatalogUnavailable(
                "the model catalog could not be reached", service=self._wire.base_url
            )
        return models

    async def load(self, model: Model) -> None:
        """Load a model. Of several versions the service takes the newest, whatever was asked."""
        await self._wire.get(
            f"{_PREFIX[model.catalog]}/models/load/{model.alias}", timeout_s=LOAD_TIMEOUT_S
        )
        if model.id not in await self._loaded(model.catalog, CATALOG_TIMEOUT_S):
            raise ModelLoadFailed(
                f"the service loaded another version of {model.alias} than {model.id}",
                hint="Name the newest version, or remove the newer ones.",
                model=model.id,
                service=self._wire.base_url,
            )

    async def unload(self, model: Model) -> None:
        """Unload a model; refused by the service while sessions use it."""
        await self._wire.get(
            f"{_PREFIX[model.catalog]}/models/unload/{model.alias}", timeout_s=LOAD_TIMEOUT_S
        )

    def chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion, with usage in its last event."""
        body: dict[str, Any] = {
            **request.extra,
            "model": model.id,
            "messages": request.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for name in ("max_tokens", "temperature", "top_p", "seed"):
            if (value := getattr(request, name)) is not None:
                body[name] = value
        if request.stop:
            body["stop"] = request.stop
        path = f"{_PREFIX[model.catalog]}/v1/chat/completions"
        return self._wire.post(path, _ENCODER.encode(body))

    def chat_decoder(self, model: Model) -> ChatDecoder:
        """A decoder for one answer."""
        return _ChatDecoder(model.id)

    async def _models(self, catalog: Catalog, timeout_s: float) -> list[Model]:
        body = await self._wire.get(f"{_PREFIX[catalog]}/v1/models", timeout_s=timeout_s)
        listed = self._decode(_LISTING, body).data
        if not listed:
            return []
        loaded = await self._loaded(catalog, timeout_s)
        return [
            Model(
                id=item.id,
                alias=_alias(item.id),
                catalog=catalog,
                cached=True if catalog == "local" or item.id in loaded else None,
                loaded=item.id in loaded,
            )
            for item in listed
        ]

    async def _loaded(self, catalog: Catalog, timeout_s: float) -> frozenset[str]:
        body = await self._wire.get(f"{_PREFIX[catalog]}/models/loaded", timeout_s=timeout_s)
        ids = self._decode(_IDS, body)
        return frozenset(ids)

    def _decode(self, decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
        try:
            return decoder.decode(body)
        except msgspec.DecodeError as error:
            raise ProtocolError(
                f"the service's answer is not what SDK 2.x sends: {error}",
                service=self._wire.base_url,
            ) from error


def _alias(model_id: str) -> str:
    """The alias of a registered model, which is its id without version.

    For Microsoft's models that is the name of the variant: this generation's routes do not tell
    the alias. The engine host's control API does.
    """
    return model_id.rpartition(":")[0] or model_id


class _ChatDecoder:
    """Events of one stream: role, text, finish reason, usage, `[DONE]`."""

    def __init__(self, model_id: str) -> None:
        self._model = model_id
        self._events = EventDecoder()
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._without_text: list[bytes] = []
        self.done = False

    def feed(self, block: bytes) -> list[Chunk]:
        """The pieces of text that this block completes."""
        chunks: list[Chunk] = []
        for data, _ in self._events.feed(block):
            if data == _DONE:
                self.done = True
                break
            if text := self._text(data):
                chunks.append(Chunk(text, self._model, raw=data))
            else:
                self._without_text.append(data)
        return chunks

    def finish(self) -> Chunk:
        """The last chunk."""
        if self._finish_reason is None:
            raise StreamInterrupted("the stream ended before the answer did", model=self._model)
        raw = b"\n".join(self._without_text)
        return Chunk("", self._model, self._finish_reason, self._usage or Usage(), raw=raw)

    def _text(self, data: bytes) -> str:
        try:
            event = _EVENT.decode(data)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"an event is not a chat completion chunk: {error}") from error
        if event.error is not None:
            status = 500 if event.error.type == "server_error" else 400
            raise classify(status, event.error.message)
        if event.usage is not None:
            self._usage = event.usage
        if not event.choices:
            return ""
        choice = event.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        return choice.delta.content or ""
