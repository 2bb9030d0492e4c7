"""`/api/…`: models and status for people and programs with the scope `manage`."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api._version import __version__
from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import make_error_body
from foundry_api.gateway.health import list_problems
from foundry_api.gateway.streaming import send_events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.errors import RequestError
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.types.models import Model

__all__ = [
    "describe_status",
    "get_status",
    "list_all_models",
    "list_llama_models",
    "load_llama_model",
    "load_model",
    "pull_model",
    "reload",
    "remove_model",
    "unload_llama_model",
    "unload_model",
]


class ModelBody(msgspec.Struct):
    """The JSON body of llama.cpp's requests."""

    model: str


async def get_status(exchange: Exchange) -> web.StreamResponse:
    """Return problems, the queue, and what each key waits for."""
    return exchange.respond_json(describe_status(exchange.context))


def describe_status(context: GatewayContext) -> dict[str, Any]:
    """Return what `/api/status` says."""
    problems = list_problems(context)
    scheduler = context.admission.scheduler
    names = {key.id: key.name for key in context.keyring.keys}
    return {
        "version": __version__,
        "ready": not problems,
        "problems": problems,
        "in_flight": scheduler.active,
        "waiting": scheduler.waiting,
        "keys": [
            {
                "key": names.get(queue.key_id, queue.key_id),
                "running": queue.running,
                "waiting": queue.waiting,
                "estimated_wait_s": queue.estimated_wait_s,
            }
            for queue in context.admission.describe_queue()
        ],
    }


async def reload(exchange: Exchange) -> web.StreamResponse:
    """Read keys, limits and TLS files again."""
    await exchange.context.reload()
    return exchange.respond_json({"status": "reloaded"})


async def list_all_models(exchange: Exchange) -> web.StreamResponse:
    """List the models on this machine; with `?catalog=true` also those of the catalog."""
    catalog = exchange.request.query.get("catalog", "false")
    if catalog not in {"true", "false"}:
        raise make_invalid("catalog", "catalog is neither true nor false.")
    models = await exchange.context.client.models.list(catalog=catalog == "true")
    return exchange.respond_json({"models": [_describe(model) for model in models]})


async def load_model(exchange: Exchange) -> web.StreamResponse:
    """Load a model into memory."""
    model = await exchange.context.client.models.load(exchange.path_id)
    return exchange.respond_json(_describe(model))


async def unload_model(exchange: Exchange) -> web.StreamResponse:
    """Unload a model after its running calls."""
    model = await exchange.context.client.models.unload(exchange.path_id)
    return exchange.respond_json(_describe(model))


async def remove_model(exchange: Exchange) -> web.StreamResponse:
    """Delete the files of a model."""
    freed = await exchange.context.client.models.remove(exchange.path_id)
    return exchange.respond_json({"model": exchange.path_id, "freed_bytes": freed})


async def pull_model(exchange: Exchange) -> web.StreamResponse:
    """Download a model; events report the progress."""
    return await send_events(exchange, _pull(exchange), _make_error_event)


async def _pull(exchange: Exchange) -> AsyncGenerator[bytes]:
    steps = exchange.context.client.models.stream_download(exchange.path_id)
    async with aclosing(steps):
        async for step in steps:
            yield b"data: %b\n\n" % msgspec.json.encode(step)
    yield b'data: {"status":"success"}\n\n'


async def list_llama_models(exchange: Exchange) -> web.StreamResponse:
    """List models as llama.cpp's router does."""
    models = await exchange.context.client.models.cached()
    loaded = {model.id for model in await exchange.context.client.models.loaded()}
    return exchange.respond_json(
        {
            "object": "list",
            "data": [
                {
                    "id": model.alias or model.id,
                    "object": "model",
                    "created": 0,
                    "owned_by": model.publisher or "foundry-local",
                    "status": {"value": "loaded" if model.id in loaded else "unloaded"},
                }
                for model in models
            ],
        }
    )


async def load_llama_model(exchange: Exchange) -> web.StreamResponse:
    """Load a model, as llama.cpp's router does."""
    exchange.model = (await exchange.read_json(ModelBody)).model
    await exchange.context.client.models.load(exchange.model)
    return exchange.respond_json({"success": True})


async def unload_llama_model(exchange: Exchange) -> web.StreamResponse:
    """Unload a model, as llama.cpp's router does."""
    exchange.model = (await exchange.read_json(ModelBody)).model
    await exchange.context.client.models.unload(exchange.model)
    return exchange.respond_json({"success": True})


def _make_error_event(error: RequestError) -> bytes:
    return b"data: %b\n\n" % make_error_body(error)


def _describe(model: Model) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(model)
    members.pop("path", None)  # a path of this machine
    return {"loaded": False, **members}
