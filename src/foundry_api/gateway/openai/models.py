"""`GET /v1/models`: the models that a key may call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_api.gateway.errors import make_model_not_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.types.models import Model

__all__ = ["get_model", "list_models"]


async def list_models(exchange: Exchange) -> web.StreamResponse:
    """List the models on this machine, each by alias and by id."""
    models = await _list_by_name(exchange)
    return exchange.respond_json(
        {"object": "list", "data": [_to_json(name, model) for name, model in models]}
    )


async def get_model(exchange: Exchange) -> web.StreamResponse:
    """Return one model, by alias or id in any case."""
    requested = exchange.path_id
    for name, model in await _list_by_name(exchange):
        if name.casefold() == requested.casefold():
            return exchange.respond_json(_to_json(requested, model))
    raise make_model_not_found(requested)


async def _list_by_name(exchange: Exchange) -> list[tuple[str, Model]]:
    """Return the names that the key may call, each with its model."""
    context, key = exchange.context, exchange.key
    models = [one for one in await context.upstreams.list_models() if one.cached]
    context.model_names.update(models)
    names = _by_name(models)
    if key is None:
        return names
    return [item for item in names if context.model_names.is_allowed(key, item[0])]


def _by_name(models: Sequence[Model]) -> list[tuple[str, Model]]:
    names: dict[str, Model] = {}
    for model in models:
        if model.alias:
            names.setdefault(model.alias, model)
        names.setdefault(model.id, model)
    return list(names.items())


def _to_json(name: str, model: Model) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": model.publisher or "foundry-local",
    }
