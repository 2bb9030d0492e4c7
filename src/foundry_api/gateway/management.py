"""`/api/…`: models and status for people and programs with the scope `manage`."""

from __future__ import annotations

import heapq
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api._version import __version__
from foundry_api.core.connection import match_model
from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import (
    RequestError,
    describe_error,
    make_error_event,
    make_model_not_found,
)
from foundry_api.gateway.failures import explain_code
from foundry_api.gateway.health import list_problems
from foundry_api.gateway.limits.accounts import ANONYMOUS
from foundry_api.gateway.model_names import filter_models, has_all
from foundry_api.gateway.streaming import send_events
from foundry_api.gateway.upstreams import residency
from foundry_api.types.errors import CatalogUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from aiohttp import web

    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.types.models import Model

__all__ = [
    "describe_calls",
    "describe_status",
    "explain_catalog",
    "find_model",
    "get_log",
    "get_status",
    "list_all_models",
    "list_calls",
    "list_failures",
    "load_model",
    "pull_model",
    "reload",
    "remove_model",
    "stop_call",
    "unload_model",
]


# The longest lists that are sent.
MAX_SHOWN_CALLS = 200
MAX_LOG_EVENTS = 500


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
        "upstreams": context.upstreams.describe(),
    }


def describe_calls(context: GatewayContext, owner: ApiKey | None = None) -> dict[str, Any]:
    """Return the calls that run or wait, or those of a key: the oldest ones, and how many."""
    now = context.monotonic()
    calls = [
        one
        for one in context.running
        if one.ticket is not None
        and (owner is None or (one.key is not None and one.key.id == owner.id))
    ]
    oldest = heapq.nsmallest(MAX_SHOWN_CALLS, calls, key=lambda one: one.started_at)
    return {
        "call_count": len(calls),
        "calls": [
            {
                "id": one.id,
                "key": ANONYMOUS if one.key is None else one.key.name,
                "model": one.model,
                "route": one.route,
                "state": "running" if ticket.has_started else "waiting",
                "age_s": round(now - one.started_at, 3),
                "output_tokens": ticket.output_tokens,
            }
            for one in oldest
            if (ticket := one.ticket) is not None
        ],
    }


async def list_calls(exchange: Exchange) -> web.StreamResponse:
    """List the calls that run or wait."""
    return exchange.respond_json(describe_calls(exchange.context))


async def stop_call(exchange: Exchange) -> web.StreamResponse:
    """End a call; its caller gets an error."""
    for one in exchange.context.running:
        if one.id == exchange.path_id and one.ticket is not None:
            one.abort(
                RequestError(
                    503,
                    "call_stopped",
                    "An operator of the gateway stopped this call.",
                    should_retry=False,
                )
            )
            return exchange.respond_json({"id": one.id, "status": "stopped"})
    raise RequestError(404, "call_not_found", "No call with this id runs.", param="id")


async def list_failures(exchange: Exchange) -> web.StreamResponse:
    """List the last requests that failed, the last one first."""
    context = exchange.context
    # The clock of failures is monotonic; people want the time.
    offset_s = context.wall_clock() - context.monotonic()
    failures = [
        {
            "time": round(one.at + offset_s, 3),
            "id": one.id,
            "key": one.key,
            "model": one.model,
            "route": one.route,
            "code": one.code,
            "meaning": explain_code(one.code),
        }
        for one in context.metrics.failures.list()
    ]
    return exchange.respond_json({"failures": failures})


async def get_log(exchange: Exchange) -> web.StreamResponse:
    """Return the last events of the audit log, the newest first."""
    audit = exchange.context.audit
    events = await audit.read_last(MAX_LOG_EVENTS)
    return exchange.respond_json({"is_recorded": audit.is_recorded, "events": events})


async def reload(exchange: Exchange) -> web.StreamResponse:
    """Read keys, limits and TLS files again."""
    await exchange.context.reload()
    return exchange.respond_json({"status": "reloaded"})


async def list_all_models(exchange: Exchange) -> web.StreamResponse:
    """List the models on this machine; with `?catalog=true` also those of the catalog."""
    catalog = exchange.request.query.get("catalog", "false")
    if catalog not in {"true", "false"}:
        raise make_invalid("catalog", "catalog is neither true nor false.")
    context = exchange.context
    models = await context.upstreams.list_models()
    if catalog == "true" and not has_all(models, exchange.key):
        with explain_catalog():
            models = await context.upstreams.list_models(catalog=True)
    context.model_names.update(models)
    return exchange.respond_json(
        {"models": [_describe(model) for model in filter_models(models, exchange.key)]}
    )


async def load_model(exchange: Exchange) -> web.StreamResponse:
    """Load a model into memory."""
    context = exchange.context
    context.model_names.check(exchange.key, exchange.path_id)
    await context.model_names.load()  # events have aliases
    with context.model_events.report_loading(exchange.path_id):
        model = await residency.load_model(context.client, exchange.path_id)
    return exchange.respond_json(_describe(model) | {"loaded": True})


async def unload_model(exchange: Exchange) -> web.StreamResponse:
    """Unload a model after its running calls."""
    exchange.context.model_names.check(exchange.key, exchange.path_id)
    model = await residency.unload_model(exchange.context.client, exchange.path_id)
    return exchange.respond_json(_describe(model) | {"loaded": False})


async def remove_model(exchange: Exchange) -> web.StreamResponse:
    """Delete the files of a model."""
    exchange.context.model_names.check(exchange.key, exchange.path_id)
    exchange.context.upstreams.refuse_changes()
    model = await find_model(exchange, exchange.path_id)
    freed = await exchange.context.client.models.remove(model.id)
    exchange.context.model_events.publish_removal(model.alias)
    return exchange.respond_json({"model": exchange.path_id, "freed_bytes": freed})


async def pull_model(exchange: Exchange) -> web.StreamResponse:
    """Download a model; events report the progress."""
    exchange.context.model_names.check(exchange.key, exchange.path_id)
    exchange.context.upstreams.refuse_changes()
    return await send_events(exchange, _pull(exchange), make_error_event)


async def find_model(exchange: Exchange, name: str) -> Model:
    """Return a model on this machine that the key may use.

    Raises:
        RequestError: 404 without such a model.
    """
    context = exchange.context
    models = await context.upstreams.list_models()
    context.model_names.update(models)
    model = match_model(name, filter_models(models, exchange.key))
    if model is None:
        raise make_model_not_found(name)
    return model


@contextmanager
def explain_catalog() -> Generator[None]:
    """Report that the catalog cannot be reached as such, not as an unknown model."""
    try:
        yield
    except CatalogUnavailable as error:
        raise RequestError(
            503, "catalog_unavailable", describe_error(error), should_retry=False
        ) from error


async def _pull(exchange: Exchange) -> AsyncGenerator[bytes]:
    steps = exchange.context.client.models.stream_download(exchange.path_id)
    with explain_catalog():
        async with aclosing(steps):
            async for step in steps:
                yield b"data: %b\n\n" % msgspec.json.encode(step)
    yield b'data: {"status":"success"}\n\n'


def _describe(model: Model) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(model)
    members.pop("path", None)  # a path of this machine
    return {"loaded": False, **members}
