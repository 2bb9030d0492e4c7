"""A gateway in front of several services."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api import FoundryAPIClient
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.process import HostOptions, get_demo_models
from foundry_api.engine.supervisor import EngineHost
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.upstreams.config import UpstreamConfig, make_services
from foundry_api.storage.paths import Paths
from foundry_api.types.settings import Settings
from gateway.serving import ServedGateway
from support.scripted_model import build

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.gateway.keys.types import NewKey


@asynccontextmanager
async def serve_upstreams(
    directory: Path,
    *upstreams: dict[str, Any],
    keys: tuple[NewKey, ...] = (),
    client: Any = None,
    **config: Any,
) -> AsyncGenerator[ServedGateway]:
    """Serve tables of `[[upstream]]`; `client` and `config` have further settings."""
    tables = msgspec.convert(upstreams, tuple[UpstreamConfig, ...])
    settings = Settings(services=make_services(tables))
    database = KeyDatabase(directory)
    tokens = [database.create(key)[1] for key in keys]
    async with AsyncExitStack() as stack:
        service = FoundryAPIClient(settings=settings, **(client or {}))
        await stack.enter_async_context(service)
        gateway = Gateway(
            GatewayConfig(**{"port": 0, "upstream": tables, **config}), service, directory
        )
        await stack.enter_async_context(gateway)
        served = ServedGateway(gateway, tokens)
        stack.push_async_callback(served.close)
        await served.wait_until(lambda: all(map(is_checked, service.services)))
        yield served


def is_checked(service: ServiceHandle) -> bool:
    """Whether a service has been asked for its models."""
    return bool(service.problem) or (service.offer is not None and service.offer.is_listed)


def get_service(served: ServedGateway, name: str) -> ServiceHandle:
    """Return the service of an upstream."""
    for service in served.gateway.context.client.services:
        if service.offer is not None and service.offer.options.name == name:
            return service
    raise LookupError(name)


@asynccontextmanager
async def start_engine(home: Path, *aliases: str) -> AsyncGenerator[EngineHost]:
    """Start an engine of its own with the demo model, and the scripted model by these names."""
    models = list(get_demo_models())
    for alias in aliases:
        directory = home / alias
        directory.mkdir(parents=True)
        build(directory)
        models.append(ModelSource(path=str(directory), alias=alias))
    host = EngineHost(HostOptions(paths=Paths.from_home(home), models=tuple(models)))
    try:
        await host.wait_ready()
        yield host
    finally:
        await host.aclose()


def get_url(host: EngineHost) -> str:
    """Return the address of an engine that is ready."""
    assert host.endpoint is not None
    return host.endpoint.base_url
