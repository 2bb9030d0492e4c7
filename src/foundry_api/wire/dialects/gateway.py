"""The dialect of this package's own gateway, `foundry-api serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from foundry_api.types.access_errors import PermissionDenied
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import DownloadFailed, ModelNotFound
from foundry_api.types.messages import ChoiceConstraint, JsonSchemaConstraint, ServiceGeneration
from foundry_api.types.models import Model
from foundry_api.wire.chat.request import encode, get_tool_names, make_chat_body
from foundry_api.wire.chat.stream import ChatStream
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    parse_error,
    read_download_block,
    read_download_error,
)
from foundry_api.wire.errors import NOT_JSON, parse_stream_error
from foundry_api.wire.sse import EventDecoder
from foundry_api.wire.transport import OK, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.types.messages import ChatRequest, Constraint
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.dialects.base import Catalog, ServiceClient
    from foundry_api.wire.transport import Request

__all__ = ["GatewayDialect", "parse_gateway_status"]

_CHAT_ROUTE = "/v1/chat/completions"
_NOT_READY = "the gateway reports that it cannot serve all calls"


class _Engine(msgspec.Struct):
    """The engine behind a gateway, as far as it knows it."""

    version: str | None = None
    memory_bytes: int | None = None
    uptime_s: float | None = None


class _Status(msgspec.Struct, tag_field="object", tag="gateway"):
    ready: bool
    engine: _Engine | None = None


class _Models(msgspec.Struct):
    models: list[Model]


class _Step(msgspec.Struct):
    """An event of a download: its progress, its end, or an error."""

    percent: float | None = None
    status: str | None = None


class _Removal(msgspec.Struct):
    freed_bytes: int


_STATUS = msgspec.json.Decoder(_Status)
_MODELS = msgspec.json.Decoder(_Models)
_MODEL = msgspec.json.Decoder(Model)
_STEP = msgspec.json.Decoder(_Step)
_REMOVAL = msgspec.json.Decoder(_Removal)


def parse_gateway_status(body: bytes) -> ServiceStatus | None:
    """Return the status that a gateway reports; None if the body is of another service."""
    try:
        return _make_status(_STATUS.decode(body))
    except NOT_JSON:
        return None


class GatewayDialect:
    """The dialect of a gateway: OpenAI's API for calls, and `/api` for models."""

    service_generation: ServiceGeneration = "gateway"
    manages_calls: bool = True

    def __init__(self, client: ServiceClient) -> None:
        self.capabilities = CAPABILITIES[self.service_generation]
        self._client = client

    async def get_status(self) -> ServiceStatus:
        return _make_status(
            await self._client.get_json("/status", _STATUS, timeout_s=QUICK_TIMEOUT_S)
        )

    async def list_local_models(self) -> list[Model]:
        return await self._list_models("/api/models", QUICK_TIMEOUT_S)

    async def list_public_models(self) -> list[Model]:
        models = await self._list_models("/api/models?catalog=true", CATALOG_TIMEOUT_S)
        return [model for model in models if model.catalog == "public"]

    async def find_by_alias(self, name: str) -> Model | None:
        # An alias that no listing has is found by loading the model, which takes a key that may.
        try:
            body = await self._post(name, "load")
        except (ModelNotFound, PermissionDenied):
            return None
        return _MODEL.decode(body)

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        models = await self.list_local_models()
        return frozenset(
            model.id for model in models if model.loaded and catalog in {None, model.catalog}
        )

    async def load(self, model: Model) -> None:
        await self._post(model.id, "load")

    async def unload(self, model: Model) -> None:
        await self._post(model.id, "unload")

    async def download(self, model: Model) -> AsyncGenerator[float, None]:
        client = self._client
        request = client.build_post(_make_model_path(model.id, "pull"), b"{}")
        response = await client.transport.send(request)
        try:
            if response.status != OK:
                raise (await read_download_error(response)).with_context(
                    model=model.id, service=client.base_url
                )
            events = EventDecoder()
            while block := await read_download_block(response):
                for event in events.feed(block):
                    step = _STEP.decode(event.data)
                    if step.status is not None:
                        return
                    if step.percent is None:
                        raise parse_stream_error(event.data) or DownloadFailed(
                            "the gateway sent an unknown event", model=model.id
                        )
                    yield step.percent
            raise DownloadFailed("the gateway ended the download", model=model.id)
        finally:
            response.close()

    async def remove(self, model: Model) -> int:
        request = self._client.build_request("DELETE", _make_model_path(model.id))
        return _REMOVAL.decode(await self._fetch(request)).freed_bytes

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        return ("public",)

    def make_path(self, catalog: Catalog, route: str) -> str:
        del catalog
        return route

    def get_model_name(self, model: Model) -> str:
        return model.id

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        body = make_chat_body(request, model.id)
        if request.constraint is not None:
            body["response_format"] = _make_response_format(request.constraint)
        elif "response_format" in body:
            body["response_format"] = _wrap_schema(body["response_format"])
        return self._client.build_post(_CHAT_ROUTE, encode(body))

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        # The gateway has corrected already what the engine behind it sent.
        return ChatStream(model.id, tools=get_tool_names(request))

    def build_non_streaming_request(self, model: Model, request: ChatRequest) -> Request | None:
        del model, request  # a failed stream contains its error
        return None

    async def _list_models(self, path: str, timeout_s: float) -> list[Model]:
        return (await self._client.get_json(path, _MODELS, timeout_s=timeout_s)).models

    async def _post(self, model_id: str, verb: str) -> bytes:
        return await self._fetch(self._client.build_post(_make_model_path(model_id, verb), b"{}"))

    async def _fetch(self, request: Request) -> bytes:
        client = self._client
        response = await fetch(client.transport, request, timeout_s=LOAD_TIMEOUT_S)
        if response.status != OK:
            raise parse_error(response).with_context(service=client.base_url)
        return response.body


def _make_status(status: _Status) -> ServiceStatus:
    engine = status.engine or _Engine()
    return ServiceStatus(
        "gateway",
        version=engine.version,
        memory_bytes=engine.memory_bytes,
        uptime_s=engine.uptime_s,
        problem="" if status.ready else _NOT_READY,
    )


def _make_model_path(model_id: str, verb: str = "") -> str:
    path = f"/api/models/{quote(model_id, safe=':')}"
    return f"{path}/{verb}" if verb else path


def _make_response_format(constraint: Constraint) -> dict[str, Any]:
    """Return the response format by which the gateway gets a constraint."""
    if isinstance(constraint, JsonSchemaConstraint):
        wrapper = {"name": "answer", "schema": constraint.schema}
        return {"type": "json_schema", "json_schema": wrapper}
    if isinstance(constraint, ChoiceConstraint):
        return {"type": "choice", "choice": constraint.choices}
    return {"type": "lark_grammar", "lark_grammar": constraint.lark}


def _wrap_schema(response_format: Any) -> Any:
    """Put the plain schema that the engine takes into OpenAI's wrapper."""
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict()}}:
            return response_format
        case {"type": "json_schema", "json_schema": dict()}:
            wrapper = {"name": "answer", "schema": response_format["json_schema"]}
            return {"type": "json_schema", "json_schema": wrapper}
        case _:
            return response_format
