"""The dialect of other servers of OpenAI's API: llama.cpp, vLLM, Ollama, LM Studio."""

# Facts about these servers, with their sources, are in docs/gateway-upstreams.md.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import ProtocolError, UnsupportedFeature
from foundry_api.types.messages import JsonSchemaConstraint, ServiceGeneration
from foundry_api.types.models import Model
from foundry_api.wire.chat.request import (
    add_tool_recovery,
    encode,
    get_tool_names,
    make_chat_body,
    prompt_for_constraint,
)
from foundry_api.wire.chat.stream import ChatStream
from foundry_api.wire.dialects.base import QUICK_TIMEOUT_S, ServiceStatus
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.types.messages import ChatRequest
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.dialects.base import Catalog, ServiceClient
    from foundry_api.wire.transport import Request

__all__ = ["MODELS_ROUTE", "OpenAIDialect", "parse_models"]

MODELS_ROUTE = "/v1/models"
_CHAT_ROUTE = "/v1/chat/completions"

# These servers keep the models that they list in memory.
_RESIDENT = frozenset({"llamacpp", "vllm"})
# llama.cpp names a model by the path of its file, unless it was given another name.
_MODEL_FILE = re.compile(r"(?:.*[/\\])?([^/\\]+)\.gguf", re.IGNORECASE)


class _Meta(msgspec.Struct):
    """What llama.cpp says of a model."""

    n_ctx_train: int | None = None


class _ListedModel(msgspec.Struct):
    id: str
    owned_by: str | None = None
    max_model_len: int | None = None  # vLLM
    meta: _Meta | None = None


class _Listing(msgspec.Struct):
    data: list[_ListedModel] | None  # null in place of an empty list from Ollama


_LISTING = msgspec.json.Decoder(_Listing)


def parse_models(body: bytes) -> list[tuple[str, Model]] | None:
    """Return the models of a listing, each with the name that the server takes; None if it is none.

    The name is not always fit to be shown: it may be a path on the server.
    """
    try:
        listing = _LISTING.decode(body)
    except NOT_JSON:
        return None
    models: list[tuple[str, Model]] = []
    for item in listing.data or ():
        file = _MODEL_FILE.fullmatch(item.id)
        name = file[1] if file else item.id
        meta = item.meta or _Meta()
        model = Model(
            id=name,
            alias=name.removesuffix(":latest"),  # Ollama's tag, which may be left out
            catalog="public",
            cached=True,
            loaded=item.owned_by in _RESIDENT,
            publisher=item.owned_by,
            context_length=item.max_model_len or meta.n_ctx_train,
        )
        models.append((item.id, model))
    return models


class OpenAIDialect:
    """The dialect of a server that has OpenAI's routes and no others that are known."""

    service_generation: ServiceGeneration = "openai"
    manages_calls: bool = True

    def __init__(self, client: ServiceClient) -> None:
        self.capabilities = CAPABILITIES[self.service_generation]
        self._client = client
        self._names: dict[str, str] = {}  # that the server takes, by id

    async def get_status(self) -> ServiceStatus:
        await self.list_local_models()  # it has no other route that all of them have
        return ServiceStatus(self.service_generation)

    async def list_local_models(self) -> list[Model]:
        client = self._client
        models = parse_models(await client.get(MODELS_ROUTE, timeout_s=QUICK_TIMEOUT_S))
        if models is None:
            raise ProtocolError(
                f"the answer to {MODELS_ROUTE} is not a list of models", service=client.base_url
            )
        self._names = {model.id: name for name, model in models if name != model.id}
        return [model for _, model in models]

    async def list_public_models(self) -> list[Model]:
        return await self.list_local_models()

    async def find_by_alias(self, name: str) -> Model | None:
        del name
        return None

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        del catalog
        return frozenset(model.id for model in await self.list_local_models() if model.loaded)

    async def load(self, model: Model) -> None:
        """Do nothing: the server has its models in memory, or loads them for their calls."""

    async def unload(self, model: Model) -> None:
        raise self._refuse(f"unload {model.id}")

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        raise self._refuse(f"download {model.id}")

    async def remove(self, model: Model) -> int:
        raise self._refuse(f"remove {model.id}")

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        return ("public",)

    def make_path(self, catalog: Catalog, route: str) -> str:
        del catalog
        return route

    def get_model_name(self, model: Model) -> str:
        return self._names.get(model.id, model.id)

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        constraint = request.constraint
        if constraint is not None:
            # Not every server enforces a format, and one that does gets better answers of a model
            # that knows it.
            request = msgspec.structs.replace(
                request, messages=prompt_for_constraint(request), constraint=None
            )
        body = make_chat_body(request, self.get_model_name(model))
        if isinstance(constraint, JsonSchemaConstraint) and not request.tools:
            body["response_format"] = _make_response_format(constraint.schema)
        return self._client.build_post(_CHAT_ROUTE, encode(body))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        if not request.tools:
            return ChatStream(model.id)
        return add_tool_recovery(
            ChatStream(model.id, tools=get_tool_names(request)), model.id, request
        )

    def build_non_streaming_request(self, model: Model, request: ChatRequest) -> Request | None:
        del model, request
        return None

    def _refuse(self, what: str) -> UnsupportedFeature:
        return UnsupportedFeature(
            f"the server at {self._client.base_url} has no known route to {what}",
            hint="Use its own program.",
        )


def _make_response_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
