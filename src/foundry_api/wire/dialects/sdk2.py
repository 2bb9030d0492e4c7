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
from foundry_api.types.models import Model
from foundry_api.wire.chat.reasoning import opens_block_in_prompt
from foundry_api.wire.chat.request import (
    apply_constraint,
    inline_tool_history,
    prompt_for_constraint,
)
from foundry_api.wire.chat.stop_strings import StopStringFilter
from foundry_api.wire.chat.stream import (
    ChatStream,
    encode,
    get_output_limit,
    get_tool_names,
    make_chat_body,
    offers_tools,
)
from foundry_api.wire.chat.tool_call_parser import with_tool_recovery
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    refuse_download,
)
from foundry_api.wire.dialects.model_ids import guess_aliases
from foundry_api.wire.transport import Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.types.messages import ChatRequest, ServiceGeneration
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.dialects.base import Catalog, ServiceClient

__all__ = ["Sdk20Dialect", "Sdk21Dialect"]


class _Status(msgspec.Struct):
    pid: int
    cache_dir: str = msgspec.field(name="modelCachePath")


class _ListedModel(msgspec.Struct):
    id: str


class _ModelListing(msgspec.Struct):
    data: list[_ListedModel]


_STATUS = msgspec.json.Decoder(_Status)
_LISTING_DECODER = msgspec.json.Decoder(_ModelListing)
_IDS_DECODER: msgspec.json.Decoder[list[str]] = msgspec.json.Decoder(list[str])


class Sdk21Dialect:
    """Speaks to one service of SDK 2.1 or later.

    Args:
        wire: How to reach it.
    """

    service_generation: ServiceGeneration = "sdk-2.1"
    _prefixes: ClassVar[dict[Catalog, str]] = {"local": "/catalogs/local", "public": ""}

    def __init__(self, client: ServiceClient) -> None:
        self.capabilities = CAPABILITIES[self.service_generation]
        self._client = client
        self._aliases: dict[str, str] = {}

    async def get_status(self) -> ServiceStatus:
        """Liveness; answered in under a millisecond, also while the engine generates."""
        status = await self._client.get_json("/status", _STATUS, timeout_s=QUICK_TIMEOUT_S)
        return ServiceStatus(self.service_generation, status.pid, status.cache_dir)

    async def list_local_models(self) -> list[Model]:
        """Models registered on this machine."""
        return await self._list_models("local", QUICK_TIMEOUT_S)

    async def list_public_models(self) -> list[Model]:
        """Models of Microsoft's catalog. One that cannot be reached is answered as an empty one."""
        models = await self._list_models("public", CATALOG_TIMEOUT_S)
        if not models:
            raise CatalogUnavailable(
                "the model catalog could not be reached", service=self._client.base_url
            )
        return models

    async def find_by_alias(self, name: str) -> Model | None:
        """The model that the service loads for an alias of its catalog, which it tells nobody.

        Where it was in memory before, it is found only if it is the only one there.
        """
        before = await self._fetch_loaded_ids("public", QUICK_TIMEOUT_S)
        try:
            await self._client.get(f"/models/load/{name}", timeout_s=LOAD_TIMEOUT_S)
        except ModelNotFound:
            return None
        after = await self._fetch_loaded_ids("public", QUICK_TIMEOUT_S)
        candidates = after - before or after
        if len(candidates) != 1:
            return None
        (model_id,) = candidates
        self._aliases[model_id] = name
        return Model(id=model_id, alias=name, catalog="public", cached=True, loaded=True)

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Ids of the models in memory, of every catalog or of one."""
        # Whoever asks for all wants to know how it is now, such as a health check.
        timeout_s = QUICK_TIMEOUT_S if catalog is None else CATALOG_TIMEOUT_S
        catalogs: list[Catalog] = [name for name in self._prefixes if catalog in (None, name)]
        ids = [await self._fetch_loaded_ids(name, timeout_s) for name in catalogs]
        return frozenset(model_id for name in ids for model_id in name)

    async def load(self, model: Model) -> None:
        """Load a model. The service takes an alias, and of its variants and versions its own pick.

        Raises:
            ModelLoadFailed: It could not be loaded, or another variant of the alias was.
            ModelNotFound: The service does not know the alias.
        """
        await self._call_with_alias("load", model)
        loaded = await self._fetch_loaded_ids(model.catalog, CATALOG_TIMEOUT_S)
        if model.id not in loaded:
            raise ModelLoadFailed(
                f"the service loaded another variant of {model.alias} than {model.id}",
                hint=f"In memory are: {', '.join(sorted(loaded))}.",
                model=model.id,
                service=self._client.base_url,
            )

    async def unload(self, model: Model) -> None:
        """Unload a model.

        Raises:
            ModelInUse: Sessions still use it.
            ModelNotFound: The service does not know the alias.
        """
        await self._call_with_alias("unload", model)

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        """There is no route for it.

        Raises:
            UnsupportedFeature: Always.
        """
        del model
        return refuse_download(self._client)

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """That of this machine, and Microsoft's."""
        return tuple(self._prefixes)

    def make_path(self, catalog: Catalog, route: str) -> str:
        """The route behind the catalog's prefix."""
        return f"{self._prefixes[catalog]}{route}"

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion, with usage in its last event.

        An engine that keeps the answer to a form lets the model call no tools; where there are
        some, the prompt asks for the form.
        """
        if request.tools and offers_tools(request):
            request = msgspec.structs.replace(
                request, messages=prompt_for_constraint(request), constraint=None
            )
        body = make_chat_body(request, model.id)
        if request.constraint is not None or "response_format" in body:
            body = apply_constraint(body, request.constraint)
        wire = self._client
        url = f"{wire.base_url}{self._prefixes[model.catalog]}{_CHAT_ROUTE}"
        return Request("POST", url, wire.json_headers, encode(body))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """A decoder for one answer."""
        if not request.tools:
            return ChatStream(model.id)
        return with_tool_recovery(
            ChatStream(model.id, tools=get_tool_names(request)), model.id, request
        )

    def non_streaming_request(self, model: Model, request: ChatRequest) -> Request | None:
        """None: a stream that fails says why."""
        del model, request
        return None

    async def _call_with_alias(self, verb: str, model: Model) -> None:
        route = f"{self._prefixes[model.catalog]}/models/{verb}/"
        if model.catalog == "local" or model.id in self._aliases:
            await self._client.get(route + model.alias, timeout_s=LOAD_TIMEOUT_S)
            return
        aliases = dict.fromkeys((model.alias, *guess_aliases(model.id)))
        for alias in aliases:
            with contextlib.suppress(ModelNotFound):
                await self._client.get(route + alias, timeout_s=LOAD_TIMEOUT_S)
                return
        raise ModelNotFound(
            f"the service wants an alias to {verb} {model.id}, and tells of none; "
            f"tried: {', '.join(aliases)}",
            hint="Call the model by its alias.",
            model=model.id,
            service=self._client.base_url,
        )

    async def _list_models(self, catalog: Catalog, timeout_s: float) -> list[Model]:
        path = f"{self._prefixes[catalog]}/v1/models"
        listed = (await self._client.get_json(path, _LISTING_DECODER, timeout_s=timeout_s)).data
        if not listed:
            return []
        loaded = await self._fetch_loaded_ids(catalog, timeout_s)
        return [
            Model(
                id=item.id,
                alias=self._get_alias(item.id, catalog),
                catalog=catalog,
                cached=True if catalog == "local" or item.id in loaded else None,
                loaded=item.id in loaded,
            )
            for item in listed
        ]

    def _get_alias(self, model_id: str, catalog: Catalog) -> str:
        guess, name = guess_aliases(model_id)
        return name if catalog == "local" else self._aliases.get(model_id, guess)

    async def _fetch_loaded_ids(self, catalog: Catalog, timeout_s: float) -> frozenset[str]:
        path = f"{self._prefixes[catalog]}/models/loaded"
        ids = await self._client.get_json(path, _IDS_DECODER, timeout_s=timeout_s)
        return frozenset(ids)


class Sdk20Dialect(Sdk21Dialect):
    """Speaks to one service of SDK 2.0, which has Microsoft's catalog alone.

    It ignores stop strings, calls an answer `stop` that it cut at its own default, and goes on
    generating whatever its caller does.

    Args:
        wire: How to reach it.
    """

    service_generation: ServiceGeneration = "sdk-2.0"
    _prefixes: ClassVar[dict[Catalog, str]] = {"public": ""}

    async def list_local_models(self) -> list[Model]:
        """None: there is no local catalog."""
        return []

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        """A streamed chat completion, without what this generation drops or mistakes."""
        request = msgspec.structs.replace(
            request, messages=inline_tool_history(prompt_for_constraint(request))
        )
        body = make_chat_body(request, model.id)
        body.pop("stop", None)
        return self._client.build_post(_CHAT_ROUTE, encode(body))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """A decoder that ends the answer at a stop string, and tells a cut answer from a whole."""
        stream = ChatStream(
            model.id,
            limit=get_output_limit(request),
            tools=get_tool_names(request),
            in_reasoning=opens_block_in_prompt(model.id),
        )
        decoder = StopStringFilter(stream, request.stop) if request.stop else stream
        return with_tool_recovery(decoder, model.id, request)


_CHAT_ROUTE = "/v1/chat/completions"
