"""Loading several models, and one in the place of another."""

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

    Place = tuple[Connection, Model]
    Route = Callable[[str], Awaitable[Place]]

__all__ = ["check_drain", "load_all", "swap"]

log = logging.getLogger("foundry_api")


def check_drain(drain_s: object) -> float:
    """A time to wait.

    Raises:
        InvalidRequest: It is below 0, or endless, or no number.
    """
    seconds = as_float(drain_s)
    if seconds is None or not 0 <= seconds < float("inf"):
        raise InvalidRequest(
            f"drain is {format_value(drain_s)}, but must be 0 or more seconds", field="drain"
        )
    return seconds


async def load_all(names: Sequence[str], route: Route) -> Sequence[Model]:
    """Load models, at once where their service allows it.

    Args:
        names: The models.
        route: Finds a service and a model there.

    Raises:
        FoundryError: The first failure, after all were tried.
    """
    places = await asyncio.gather(*map(route, names), return_exceptions=True)
    loads = [_loaded(place) for place in places]
    if all(map(_parallel_loads, places)):
        results = await asyncio.gather(*loads, return_exceptions=True)
    else:
        results = [await _outcome(load) for load in loads]
    return _gather_results(names, results)


async def swap(old: Place, new: Place, *, drain_s: float) -> Model:
    """Unload a model and load another.

    Args:
        old: The model to unload, and where.
        new: The model to load, and where.
        drain_s: Seconds that calls of the old one may take to end.

    Raises:
        InvalidRequest: Both are the same.
        FoundryError: The old one could not be unloaded, or the new one not loaded.
    """
    (here, leaving), (there, coming) = old, new
    if (here.base_url, leaving.id) == (there.base_url, coming.id):
        raise InvalidRequest(f"{leaving.id} can't be swapped for itself", field="new")
    was_in = leaving.id in await here.dialect.get_loaded_ids(leaving.catalog)
    await here.memory.unload(leaving, drain_s=drain_s, reason="swap")
    try:
        if coming.cached is False:
            coming = await there.download(coming)
        await there.ensure_loaded(coming)
    except FoundryError as error:
        if was_in:
            error.hint = f"{error.hint} {await _reload_previous(here, leaving)}".strip()
        raise
    return coming


async def _reload_previous(connection: Connection, model: Model) -> str:
    try:
        await connection.ensure_loaded(model)
    except FoundryError as error:
        return f"{model.id}, which was in memory before, could not be loaded again: {error}"
    return f"{model.id} is in memory again."


async def _loaded(place: Place | BaseException) -> Model:
    if isinstance(place, BaseException):
        raise place
    connection, model = place
    if model.cached is False:
        model = await connection.download(model)
    await connection.ensure_loaded(model)
    return model


async def _outcome(load: Awaitable[Model]) -> Model | BaseException:
    (result,) = await asyncio.gather(load, return_exceptions=True)
    return result


def _parallel_loads(place: Place | BaseException) -> bool:
    if isinstance(place, BaseException):
        return True
    return place[0].dialect.capabilities.parallel_loads != "unsupported"


def _gather_results(
    names: Sequence[str], results: Sequence[Model | BaseException]
) -> Sequence[Model]:
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
