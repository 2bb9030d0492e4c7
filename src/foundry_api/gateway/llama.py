"""The routes of llama.cpp's router, through which Open WebUI and others manage models.

Their shapes are those of llama.cpp's `tools/server/README.md` ("Using multiple models").
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.core.connection import match_model
from foundry_api.gateway.checks import check_model_name, make_invalid
from foundry_api.gateway.errors import make_error_event, make_model_not_found
from foundry_api.gateway.management import explain_catalog, find_model
from foundry_api.gateway.model_names import filter_models
from foundry_api.gateway.streaming import send_events
from foundry_api.gateway.upstreams.residency import load_model, unload_model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.types.models import Model

__all__ = [
    "delete_llama_model",
    "download_llama_model",
    "list_llama_models",
    "load_llama_model",
    "stream_llama_events",
    "unload_llama_model",
]

# llama.cpp sends the head of the stream at once. An empty comment makes ours do so.
COMMENT = b":\n\n"


class ModelBody(msgspec.Struct):
    """The JSON body of a request."""

    model: str


async def list_llama_models(exchange: Exchange) -> web.StreamResponse:
    """List the models on this machine, and those that are being downloaded."""
    context = exchange.context
    models = await context.upstreams.list_models()
    context.model_names.update(models)
    listed = filter_models((model for model in models if model.cached), exchange.key)
    key, names = exchange.key, context.model_names
    downloads = {
        name: state
        for name, state in context.model_events.downloads.items()
        if key is None or names.is_allowed(key, name)
    }
    return exchange.respond_json(
        {
            "object": "list",
            "data": [
                *(_describe(model, context.model_events.loading) for model in listed),
                *(_describe_download(name, state) for name, state in downloads.items()),
            ],
        }
    )


async def load_llama_model(exchange: Exchange) -> web.StreamResponse:
    """Load a model; unlike llama.cpp, answer when it is in memory."""
    name = await _read_model(exchange)
    context = exchange.context
    context.model_names.check(exchange.key, name)
    with context.model_events.report_loading(name):
        await load_model(context.client, name)
    return exchange.respond_json({"success": True})


async def unload_llama_model(exchange: Exchange) -> web.StreamResponse:
    """Unload a model, or end its download."""
    name = await _read_model(exchange)
    context = exchange.context
    context.model_names.check(exchange.key, name)
    if not await context.model_events.cancel_download(name):
        await unload_model(context.client, name)
    return exchange.respond_json({"success": True})


async def download_llama_model(exchange: Exchange) -> web.StreamResponse:
    """Download a model in the background; `/models/sse` reports how it goes."""
    name = await _read_model(exchange)
    context = exchange.context
    context.upstreams.refuse_changes()
    models = await context.upstreams.list_models()
    model = match_model(name, filter_models(models, exchange.key))
    if model is None or not model.cached:
        with explain_catalog():
            models = await context.upstreams.list_models(catalog=True)
        context.model_names.update(models)  # for the events of the download
        model = match_model(name, filter_models(models, exchange.key))
    if model is None:
        raise make_model_not_found(name)
    if model.cached:
        raise make_invalid("model", f"model '{name}' already exists")
    context.model_events.start_download(name)
    return exchange.respond_json({"success": True})


async def delete_llama_model(exchange: Exchange) -> web.StreamResponse:
    """Delete the files of the model in `?model=`."""
    name = exchange.request.query.get("model", "")
    exchange.model = check_model_name(name)  # for the audit log
    exchange.context.upstreams.refuse_changes()
    model = await find_model(exchange, name)
    await exchange.context.client.models.remove(model.id)
    exchange.context.model_events.publish_removal(model.alias)
    return exchange.respond_json({"success": True})


async def stream_llama_events(exchange: Exchange) -> web.StreamResponse:
    """Stream what happens to models until the client leaves."""
    return await send_events(exchange, _encode_events(exchange), make_error_event)


async def _read_model(exchange: Exchange) -> str:
    body = await exchange.read_json(ModelBody)
    exchange.model = check_model_name(body.model)  # for the audit log
    await exchange.context.model_names.load()  # events have aliases
    return exchange.model


async def _encode_events(exchange: Exchange) -> AsyncGenerator[bytes]:
    key, names = exchange.key, exchange.context.model_names
    await names.load()  # events have aliases
    async with aclosing(exchange.context.model_events.subscribe()) as events:
        yield COMMENT
        async for event in events:
            if key is None or names.is_allowed(key, event["model"]):
                yield b"data: %b\n\n" % msgspec.json.encode(event)


def _describe(model: Model, loading: set[str]) -> dict[str, Any]:
    status = "loading" if model.alias in loading else "loaded" if model.loaded else "unloaded"
    return {
        "id": model.alias or model.id,
        "aliases": [model.id],
        "object": "model",
        "created": 0,
        "owned_by": model.publisher or "foundry-local",
        "status": {"value": status},
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "can_remove": model.catalog == "public",
    }


def _describe_download(name: str, progress: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "foundry-local",
        "status": {"value": "downloading", "progress": progress},
    }
