"""The dialect of SDK 2.1 and later: a C++ core behind oatpp, probed on 2.2.1.

What is peculiar to it: two catalogs with routes of their own (plain for Microsoft's, a prefix for
directories registered on this machine); load and unload take the alias while inference takes the
full id; path variables are not percent-decoded; a stream that fails says so in a 200.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from foundry_api.classify import classify
from foundry_api.errors import (
    CatalogUnavailable,
    ModelLoadFailed,
    ModelNotFound,
    ProtocolError,
    StreamInterrupted,
)
from foundry_api.messages import Chunk, FinishReason, Model, Usage
from foundry_api.wire.dialects.base import BAD_JSON, Ending, ServiceStatus
from foundry_api.wire.sse import MAX_EVENT_BYTES, EventDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        """Load a model. The service takes an alias, and of its variants and versions its own pick.

        Raises:
            ModelLoadFailed: It could not be loaded, or another variant of the alias was.
            ModelNotFound: The service does not know the alias.
        """
        await self._by_alias("load", model)
        loaded = await self._loaded(model.catalog, CATALOG_TIMEOUT_S)
        if model.id not in loaded:
            raise ModelLoadFailed(
                f"the service loaded another variant of {model.alias} than {model.id}",
                hint=f"In memory are: {', '.join(sorted(loaded))}.",
                model=model.id,
                service=self._wire.base_url,
            )

    async def unload(self, model: Model) -> None:
        """Unload a model.

        Raises:
            ModelInUse: Sessions still use it.
            ModelNotFound: The service does not know the alias.
        """
        await self._by_alias("unload", model)

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

    async def _by_alias(self, verb: str, model: Model) -> None:
        guesses = _aliases(model.id) if model.catalog == "public" else ()
        aliases = list(dict.fromkeys((model.alias, *guesses)))
        for alias in aliases:
            path = f"{_PREFIX[model.catalog]}/models/{verb}/{alias}"
            try:
                await self._wire.get(path, timeout_s=LOAD_TIMEOUT_S)
            except ModelNotFound:
                if alias == aliases[-1]:
                    raise
            else:
                return

    async def _models(self, catalog: Catalog, timeout_s: float) -> list[Model]:
        body = await self._wire.get(f"{_PREFIX[catalog]}/v1/models", timeout_s=timeout_s)
        listed = self._decode(_LISTING, body).data
        if not listed:
            return []
        loaded = await self._loaded(catalog, timeout_s)
        return [
            Model(
                id=item.id,
                alias=_aliases(item.id)[0 if catalog == "public" else -1],
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
        except BAD_JSON as error:
            raise ProtocolError(
                f"the service's answer is not what SDK 2.x sends: {error}",
                service=self._wire.base_url,
            ) from error


_VARIANT = re.compile(r"(?:-instruct|-chat)?(?:-[a-z0-9]+-(?:cpu|gpu|npu))?$", re.IGNORECASE)


def _aliases(model_id: str) -> tuple[str, ...]:
    """What a model's alias may be, the likeliest first: no route of this generation tells it.

    A registered model's alias is its id without version. Microsoft's ids carry the variant as
    well: `Phi-4-mini-instruct-generic-cpu:4` is one of `phi-4-mini`.
    """
    name = model_id.rpartition(":")[0] or model_id
    return _VARIANT.sub("", name).lower(), name


class _ChatDecoder:
    """Events of one stream: role, text, finish reason, usage, `[DONE]`."""

    def __init__(self, model_id: str) -> None:
        self._model = model_id
        self._events = EventDecoder()
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._without_text: list[bytes] = []
        self._without_text_bytes = 0
        self.done = False

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces of text that this block completes."""
        for event in self._events.feed(block):
            data = event.data
            if data == _DONE:
                self.done = True
                break
            if text := self._text(data):
                yield Chunk(text, self._model, raw=data)
            else:
                self._keep(data)

    def finish(self) -> Ending:
        """How the answer ended."""
        if self._finish_reason is None:
            raise StreamInterrupted("the stream ended before the answer did", model=self._model)
        raw = b"\n".join(self._without_text)
        return Ending(self._finish_reason, self._usage or Usage(), raw)

    def _keep(self, data: bytes) -> None:
        self._without_text.append(data)
        self._without_text_bytes += len(data)
        if self._without_text_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"more than {MAX_EVENT_BYTES} bytes of events carry no text")

    def _text(self, data: bytes) -> str:
        try:
            event = _EVENT.decode(data)
        except BAD_JSON as error:
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
