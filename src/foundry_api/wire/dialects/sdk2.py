"""The dialects of SDK 2.x: a C++ core behind oatpp, probed on 2.0.1 and 2.2.1.

What is peculiar to it: load and unload take the alias while inference takes the full id; path
variables are not percent-decoded; a stream that fails says so in a 200. From 2.1 on there are two
catalogs with routes of their own: plain for Microsoft's, a prefix for directories registered on
this machine.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar

import msgspec

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import CatalogUnavailable, ModelLoadFailed, ModelNotFound
from foundry_api.types.messages import Model
from foundry_api.wire.chat.reasoning import opens_block_in_prompt
from foundry_api.wire.chat.request import constrained, inlined, told
from foundry_api.wire.chat.stop_strings import Stopped
from foundry_api.wire.chat.stream import (
    ChatStream,
    chat_body,
    encode,
    offers_tools,
    output_limit,
    tool_names,
)
from foundry_api.wire.chat.tool_call_parser import recovering
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    no_download,
)
from foundry_api.wire.dialects.model_ids import aliases_of
from foundry_api.wire.transport import Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.types.messages import ChatRequest, Generation
    from foundry_api.wire.dialects.base import Catalog, ChatDecoder, Wire

__all__ = ["Sdk20Dialect", "Sdk21Dialect"]


class _Status(msgspec.Struct):
    pid: int
    cache_dir: str = msgspec.field(name="modelCachePath")


class _Listed(msgspec.Struct):
    id: str


class _Listing(msgspec.Struct):
    data: list[_Listed]


_STATUS = msgspec.json.Decoder(_Status)
_LISTING = msgspec.json.Decoder(_Listing)
_IDS: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


class Sdk21Dialect:
    """Speaks to one service of SDK 2.1 or later.

    Args:
        wire: How to reach it.
    """

    generation: Generation = "sdk-2.1"
    _prefixes: ClassVar[dict[Catalog, str]] = {"local": "/catalogs/local", "public": ""}

    def __init__(self, wire: Wire) -> None:
        self.capabilities = CAPABILITIES[self.generation]
        self._wire = wire
        self._aliases: dict[str, str] = {}

    async def status(self) -> ServiceStatus:
        """Liveness; answered in under a millisecond, also while the engine generates."""
        status = await self._wire.get_json("/status", _STATUS, timeout_s=QUICK_TIMEOUT_S)
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

    async def by_alias(self, name: str) -> Model | None:
        """The model that the service loads for an alias of its catalog, which it tells nobody.

        Where it was in memory before, it is found only if it is the only one there.
        """
        before = await self._loaded("public", QUICK_TIMEOUT_S)
        try:
            await self._wire.get(f"/models/load/{name}", timeout_s=LOAD_TIMEOUT_S)
        except ModelNotFound:
            return None
        after = await self._loaded("public", QUICK_TIMEOUT_S)
        found = after - before or after
        if len(found) != 1:
            return None
        (model_id,) = found
        self._aliases[model_id] = name
        return Model(id=model_id, alias=name, catalog="public", cached=True, loaded=True)

    async def loaded(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Ids of the models in memory, of every catalog or of one."""
        # Whoever asks for all wants to know how it is now, such as a health check.
        timeout_s = QUICK_TIMEOUT_S if catalog is None else CATALOG_TIMEOUT_S
        catalogs: list[Catalog] = [each for each in self._prefixes if catalog in (None, each)]
        ids = [await self._loaded(each, timeout_s) for each in catalogs]
        return frozenset(model_id for each in ids for model_id in each)

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

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        """There is no route for it.

        Raises:
            UnsupportedFeature: Always.
        """
        del model
        return no_download(self._wire)

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """That of this machine, and Microsoft's."""
        return tuple(self._prefixes)

    def path(self, catalog: Catalog, route: str) -> str:
        """The route behind the catalog's prefix."""
        return f"{self._prefixes[catalog]}{route}"

    def chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion, with usage in its last event.

        An engine that keeps the answer to a form lets the model call no tools; where there are
        some, the prompt asks for the form.
        """
        if request.tools and offers_tools(request):
            request = msgspec.structs.replace(request, messages=told(request), constraint=None)
        body = chat_body(request, model.id)
        if request.constraint is not None or "response_format" in body:
            body = constrained(body, request.constraint)
        wire = self._wire
        url = f"{wire.base_url}{self._prefixes[model.catalog]}{_CHAT}"
        return Request("POST", url, wire.json_headers, encode(body))

    def chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """A decoder for one answer."""
        if not request.tools:
            return ChatStream(model.id)
        return recovering(ChatStream(model.id, tools=tool_names(request)), model.id, request)

    def plain_request(self, model: Model, request: ChatRequest) -> Request | None:
        """None: a stream that fails says why."""
        del model, request
        return None

    async def _by_alias(self, verb: str, model: Model) -> None:
        route = f"{self._prefixes[model.catalog]}/models/{verb}/"
        if model.catalog == "local" or model.id in self._aliases:
            await self._wire.get(route + model.alias, timeout_s=LOAD_TIMEOUT_S)
            return
        tried = dict.fromkeys((model.alias, *aliases_of(model.id)))
        for alias in tried:
            with contextlib.suppress(ModelNotFound):
                await self._wire.get(route + alias, timeout_s=LOAD_TIMEOUT_S)
                return
        raise ModelNotFound(
            f"the service wants an alias to {verb} {model.id}, and tells of none; "
            f"tried: {', '.join(tried)}",
            hint="Call the model by its alias.",
            model=model.id,
            service=self._wire.base_url,
        )

    async def _models(self, catalog: Catalog, timeout_s: float) -> list[Model]:
        path = f"{self._prefixes[catalog]}/v1/models"
        listed = (await self._wire.get_json(path, _LISTING, timeout_s=timeout_s)).data
        if not listed:
            return []
        loaded = await self._loaded(catalog, timeout_s)
        return [
            Model(
                id=item.id,
                alias=self._alias(item.id, catalog),
                catalog=catalog,
                cached=True if catalog == "local" or item.id in loaded else None,
                loaded=item.id in loaded,
            )
            for item in listed
        ]

    def _alias(self, model_id: str, catalog: Catalog) -> str:
        guess, name = aliases_of(model_id)
        return name if catalog == "local" else self._aliases.get(model_id, guess)

    async def _loaded(self, catalog: Catalog, timeout_s: float) -> frozenset[str]:
        path = f"{self._prefixes[catalog]}/models/loaded"
        ids = await self._wire.get_json(path, _IDS, timeout_s=timeout_s)
        return frozenset(ids)


class Sdk20Dialect(Sdk21Dialect):
    """Speaks to one service of SDK 2.0, which has Microsoft's catalog alone.

    It ignores stop strings, calls an answer `stop` that it cut at its own default, and goes on
    generating whatever its caller does.

    Args:
        wire: How to reach it.
    """

    generation: Generation = "sdk-2.0"
    _prefixes: ClassVar[dict[Catalog, str]] = {"public": ""}

    async def local_models(self) -> list[Model]:
        """None: there is no local catalog."""
        return []

    def chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion, without what this generation drops or mistakes."""
        request = msgspec.structs.replace(request, messages=inlined(told(request)))
        body = chat_body(request, model.id)
        body.pop("stop", None)
        return self._wire.post(_CHAT, encode(body))

    def chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """A decoder that ends the answer at a stop string, and tells a cut answer from a whole."""
        stream = ChatStream(
            model.id,
            limit=output_limit(request),
            tools=tool_names(request),
            block_opened=opens_block_in_prompt(model.id),
        )
        stopped = Stopped(stream, request.stop) if request.stop else stream
        return recovering(stopped, model.id, request)


_CHAT = "/v1/chat/completions"
