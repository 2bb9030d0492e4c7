"""Load several models, and replace one model by another."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from foundry_api.types.errors import FoundryError, InvalidRequest
from foundry_api.types.values import as_float, format_value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from foundry_api.core.connection import Connection
    from foundry_api.types.models import Model

    Place = tuple[Connection, Model]  # a service, and a model as that service lists it
    Route = Callable[[str], Awaitable[Place]]  # finds the place of a model by its name

__all__ = ["check_drain", "load_all", "swap"]

log = logging.getLogger("foundry_api")


def check_drain(drain_s: object) -> float:
    """Return a validated drain time in seconds."""
    seconds = as_float(drain_s)
    if seconds is None or not 0 <= seconds < float("inf"):
        raise InvalidRequest(
            f"drain is {format_value(drain_s)}, but must be 0 or more seconds", field="drain"
        )
    return seconds


async def load_all(names: Sequence[str], route: Route) -> Sequence[Model]:
    """Load models, in parallel if all services support it.

    All are tried before the first error is raised.
    """
    places = await asyncio.gather(*map(route, names), return_exceptions=True)
    loads = [_load(place) for place in places]
    results: Sequence[Model | BaseException]
    if all(
        place[0].dialect.capabilities.parallel_loads != "unsupported"
        for place in places
        if not isinstance(place, BaseException)
    ):
        results = await asyncio.gather(*loads, return_exceptions=True)
    else:
        results = [await _catch(load) for load in loads]
    models: list[Model] = []
    failures: list[BaseException] = []
    for name, result in zip(names, results, strict=True):
        if isinstance(result, BaseException):
            log.warning("%s could not be loaded: %s", name, result)
            failures.append(result)
        else:
            models.append(result)
    if failures:
        raise failures[0]
    return models


async def _load(place: Place | BaseException) -> Model:
    if isinstance(place, BaseException):
        raise place
    connection, model = place
    if model.cached is False:
        model = await connection.download(model)
    await connection.ensure_loaded(model)
    return model


async def _catch(load: Awaitable[Model]) -> Model | BaseException:
    """Return the result or the exception, as `gather` does."""
    (result,) = await asyncio.gather(load, return_exceptions=True)
    return result


async def swap(old: Place, new: Place, *, drain_s: float) -> Model:
    """Unload the old model and load the new one. If that fails, load the old one again.

    Calls of the old model have `drain_s` seconds to end.
    """
    (old_connection, old_model), (new_connection, new_model) = old, new
    if (old_connection.base_url, old_model.id) == (new_connection.base_url, new_model.id):
        raise InvalidRequest(f"{old_model.id} can't be swapped for itself", field="new")
    was_loaded = old_model.id in await old_connection.dialect.get_loaded_ids(old_model.catalog)
    await old_connection.models.unload(old_model, drain_s=drain_s, reason="swap")
    try:
        if new_model.cached is False:
            new_model = await new_connection.download(new_model)
        await new_connection.ensure_loaded(new_model)
    except FoundryError as error:
        if was_loaded:
            outcome = await _reload_previous(old_connection, old_model)
            error.hint = f"{error.hint} {outcome}".strip()
        raise
    return new_model


async def _reload_previous(connection: Connection, model: Model) -> str:
    """Load a model again and return a sentence on the outcome."""
    try:
        await connection.ensure_loaded(model)
    except FoundryError as error:
        return f"{model.id}, which was in memory before, could not be loaded again: {error}"
    return f"{model.id} is in memory again."
