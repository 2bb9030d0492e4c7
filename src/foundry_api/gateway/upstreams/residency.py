"""Load and unload a model at every upstream that has it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from foundry_api.core.residency.manager import DRAIN_S
from foundry_api.types.errors import ModelNotFound, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.connection import Connection
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.types.models import Model

__all__ = ["load_model", "unload_model"]

# A listing of the models is at most this old.
MAX_AGE_S = 5.0


async def load_model(client: FoundryAPIClient, name: str) -> Model:
    """Load a model at every service of the client that has it.

    Raises:
        FoundryError: As `Models.load`.
    """
    if client.settings.services is None:
        return await client.models.load(name)

    async def load(connection: Connection, model: Model) -> None:
        await connection.ensure_loaded(model)

    return await _change(client, name, load)


async def unload_model(client: FoundryAPIClient, name: str) -> Model:
    """Unload a model, after its calls, at every service of the client that has it.

    Raises:
        FoundryError: As `Models.unload`.
    """
    if client.settings.services is None:
        return await client.models.unload(name)

    async def unload(connection: Connection, model: Model) -> None:
        await connection.models.unload(model, drain_s=DRAIN_S, force=False)

    return await _change(client, name, unload)


async def _change(
    client: FoundryAPIClient, name: str, change: Callable[[Connection, Model], Awaitable[None]]
) -> Model:
    async def run(service: ServiceHandle) -> Model:
        connection = await service.connect()
        model = await connection.resolve(name)
        await change(connection, model)
        return model

    await asyncio.gather(*(one.check(max_age_s=MAX_AGE_S) for one in client.services))
    having = [one for one in client.services if one.offer is not None and one.offer.has(name)]
    if not having:
        raise ModelNotFound(f"no upstream has a model named {name!r}", model=name)
    services = [one for one in having if not one.problem] or having
    results = await asyncio.gather(*map(run, services), return_exceptions=True)
    models = [result for result in results if not isinstance(result, BaseException)]
    failures = [result for result in results if isinstance(result, BaseException)]
    # A server that loads its models itself does not keep the others from it.
    serious = [one for one in failures if not isinstance(one, UnsupportedFeature)]
    if serious or not models:
        raise (serious or failures)[0]
    return models[0]
