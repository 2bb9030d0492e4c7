"""The dialects of SDK 2.x: a C++ core behind oatpp, probed on versions 2.0.1 and 2.2.1."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar

import msgspec

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import CatalogUnavailable, ModelLoadFailed, ModelNotFound
from foundry_api.types.models import Model
from foundry_api.wire.chat.reasoning import opens_block_in_prompt
from foundry_api.wire.chat.request import (
    add_tool_recovery,
    apply_constraint,
    encode,
    get_output_limit,
    get_tool_names,
    inline_tool_history,
    make_chat_body,
    offers_tools,
    prompt_for_constraint,
)
from foundry_api.wire.chat.stop_strings import StopStringFilter
from foundry_api.wire.chat.stream import ChatStream
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    refuse_download,
    refuse_removal,
)
from foundry_api.wire.dialects.model_ids import guess_aliases
from foundry_api.wire.transport import Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.types.messages import ChatRequest, ServiceGeneration
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.dialects.base import Catalog, ServiceClient

__all__ = ["Sdk20Dialect", "Sdk21Dialect"]

_CHAT_ROUTE = "/v1/chat/completions"


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


# 2.0 answers the same routes as the later versions, with fewer features and more bugs. So the
# dialect of the current versions is the base, and that of 2.0 overrides what differs.
class Sdk21Dialect:
    """The dialect of SDK 2.1 and later versions."""

    service_generation: ServiceGeneration = "sdk-2.1"
    manages_calls: bool = False
    # Models registered on this machine are served under a prefix, Microsoft's without one.
    _prefixes: ClassVar[dict[Catalog, str]] = {"local": "/catalogs/local", "public": ""}

    def __init__(self, client: ServiceClient) -> None:
        self.capabilities = CAPABILITIES[self.service_generation]
        self._client = client
        self._aliases: dict[str, str] = {}

    async def get_status(self) -> ServiceStatus:
        # Answered in under a millisecond, even while the engine generates.
        status = await self._client.get_json("/status", _STATUS, timeout_s=QUICK_TIMEOUT_S)
        return ServiceStatus(self.service_generation, status.pid, status.cache_dir)

    async def list_local_models(self) -> list[Model]:
        return await self._list_models("local", QUICK_TIMEOUT_S)

    async def list_public_models(self) -> list[Model]:
        models = await self._list_models("public", CATALOG_TIMEOUT_S)
        if not models:  # offline, the service answers with an empty list
            raise CatalogUnavailable(
                "the model catalog could not be reached", service=self._client.base_url
            )
        return models

    async def find_by_alias(self, name: str) -> Model | None:
        # The service reports no aliases, so load the model and see which id appears in memory. If
        # it was loaded already, it is identified only if it is the only one.
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
        # Health checks ask for all catalogs and need a quick result. The first request for the
        # public one makes the service fetch its remote catalog, which takes 4 s offline.
        timeout_s = QUICK_TIMEOUT_S if catalog is None else CATALOG_TIMEOUT_S
        catalogs: list[Catalog] = [name for name in self._prefixes if catalog in (None, name)]
        ids = [await self._fetch_loaded_ids(name, timeout_s) for name in catalogs]
        return frozenset(model_id for name in ids for model_id in name)

    async def load(self, model: Model) -> None:
        await self._call_with_alias("load", model)
        # The service takes an alias and chooses one of its variants and versions itself.
        loaded = await self._fetch_loaded_ids(model.catalog, CATALOG_TIMEOUT_S)
        if model.id not in loaded:
            raise ModelLoadFailed(
                f"the service loaded another variant of {model.alias} than {model.id}",
                hint=f"In memory are: {', '.join(sorted(loaded))}.",
                model=model.id,
                service=self._client.base_url,
            )

    async def unload(self, model: Model) -> None:
        await self._call_with_alias("unload", model)

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        del model
        return refuse_download(self._client)

    async def remove(self, model: Model) -> int:
        del model
        raise refuse_removal(self._client)

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        return tuple(self._prefixes)

    def make_path(self, catalog: Catalog, route: str) -> str:
        return f"{self._prefixes[catalog]}{route}"

    def get_model_name(self, model: Model) -> str:
        return model.id

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        # With a grammar the engine keeps the model from calling tools. If there are tools, the
        # prompt describes the output format instead.
        if request.tools and offers_tools(request):
            request = msgspec.structs.replace(
                request, messages=prompt_for_constraint(request), constraint=None
            )
        body = make_chat_body(request, model.id)
        if request.constraint is not None or "response_format" in body:
            body = apply_constraint(body, request.constraint)
        client = self._client
        # `build_post` inlined, because this runs for every call.
        url = f"{client.base_url}{self._prefixes[model.catalog]}{_CHAT_ROUTE}"
        return Request("POST", url, client.json_headers, encode(body))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        if not request.tools:
            return ChatStream(model.id)
        return add_tool_recovery(
            ChatStream(model.id, tools=get_tool_names(request)), model.id, request
        )

    def build_non_streaming_request(self, model: Model, request: ChatRequest) -> Request | None:
        del model, request  # a failed stream contains its error
        return None

    async def _call_with_alias(self, verb: str, model: Model) -> None:
        # The load and unload routes take an alias, while inference takes the full id. Path
        # variables are not percent-decoded, so the alias is sent as it is.
        route = f"{self._prefixes[model.catalog]}/models/{verb}/"
        # `model` may have been listed, with a guessed alias, before the alias was known.
        known_alias = model.alias if model.catalog == "local" else self._aliases.get(model.id)
        if known_alias is not None:
            await self._client.get(route + known_alias, timeout_s=LOAD_TIMEOUT_S)
            return
        aliases = dict.fromkeys((model.alias, *guess_aliases(model.id)))
        for alias in aliases:
            with contextlib.suppress(ModelNotFound):
                await self._client.get(route + alias, timeout_s=LOAD_TIMEOUT_S)
                return
        raise ModelNotFound(
            f"the service needs an alias to {verb} {model.id} and does not list any; "
            f"tried: {', '.join(aliases)}",
            hint="Call the model by its alias.",
            model=model.id,
            service=self._client.base_url,
        )

    async def _list_models(self, catalog: Catalog, timeout_s: float) -> list[Model]:
        path = f"{self._prefixes[catalog]}/v1/models"
        items = (await self._client.get_json(path, _LISTING_DECODER, timeout_s=timeout_s)).data
        if not items:
            return []
        loaded = await self._fetch_loaded_ids(catalog, timeout_s)
        models: list[Model] = []
        for item in items:
            guess, name = guess_aliases(item.id)
            models.append(
                Model(
                    id=item.id,
                    alias=name if catalog == "local" else self._aliases.get(item.id, guess),
                    catalog=catalog,
                    # The public catalog lists all its models, without saying which are cached.
                    cached=True if catalog == "local" or item.id in loaded else None,
                    loaded=item.id in loaded,
                )
            )
        return models

    async def _fetch_loaded_ids(self, catalog: Catalog, timeout_s: float) -> frozenset[str]:
        path = f"{self._prefixes[catalog]}/models/loaded"
        ids = await self._client.get_json(path, _IDS_DECODER, timeout_s=timeout_s)
        return frozenset(ids)


class Sdk20Dialect(Sdk21Dialect):
    """The dialect of SDK 2.0, which has only Microsoft's catalog."""

    service_generation: ServiceGeneration = "sdk-2.0"
    _prefixes: ClassVar[dict[Catalog, str]] = {"public": ""}

    async def list_local_models(self) -> list[Model]:
        return []

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        # It drops messages of the role "tool" and assistant messages without content.
        request = msgspec.structs.replace(
            request, messages=inline_tool_history(prompt_for_constraint(request))
        )
        body = make_chat_body(request, model.id)
        body.pop("stop", None)
        return self._client.build_post(_CHAT_ROUTE, encode(body))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        stream = ChatStream(
            model.id,
            # It reports `stop` for an answer that it truncated at its default limit.
            limit=get_output_limit(request),
            tools=get_tool_names(request),
            in_reasoning=opens_block_in_prompt(model.id),
        )
        # It ignores stop strings.
        decoder = StopStringFilter(stream, request.stop) if request.stop else stream
        return add_tool_recovery(decoder, model.id, request)
