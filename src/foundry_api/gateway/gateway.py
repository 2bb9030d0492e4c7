"""A gateway: its parts put together, started, reloaded and stopped."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from aiohttp import web

from foundry_api.gateway.authentication import Authenticator
from foundry_api.gateway.context import GatewayContext
from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.guard import RequestGuard, is_loopback
from foundry_api.gateway.handler import GatewayHandler
from foundry_api.gateway.limits.admission import Admission
from foundry_api.gateway.routes import ROUTES
from foundry_api.gateway.routing import Router
from foundry_api.gateway.server import GatewayServer, make_tls_context
from foundry_api.types.errors import ConfigurationError, ServiceError
from foundry_api.types.events import AttemptStarted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.context import RunningExchange
    from foundry_api.gateway.keys.keyring import Keyring

__all__ = ["Gateway"]

log = logging.getLogger("foundry_api.gateway")

# After an aborted exchange has its error, its connection gets this long to send it.
ABORT_GRACE_S = 2.0


class Gateway:
    """A gateway on one event loop.

    Args:
        config: The settings.
        client: Calls the service behind the gateway. The gateway does not close it.
        keyring: The keys; None to serve without keys, which is allowed on loopback only.

    Attributes:
        context: What its handlers share.

    Raises:
        ConfigurationError: The address would be reachable without a key or without encryption.
    """

    def __init__(
        self, config: GatewayConfig, client: FoundryAPIClient, keyring: Keyring | None
    ) -> None:
        _check_exposure(config, has_keys=keyring is not None)
        admission = Admission(config, lambda: sum(one.limiter.limit for one in client.services))
        # A call that leaves the client's own queue makes room for another one in it.
        client.events.subscribe(lambda _: admission.scheduler.start_waiting(), AttemptStarted)
        self.context = GatewayContext(config, client, keyring, admission)
        self._tls = (
            make_tls_context(config.tls_cert, config.tls_key)
            if config.tls_cert is not None and config.tls_key is not None
            else None
        )
        self._handler = GatewayHandler(
            self.context,
            Router(ROUTES),
            RequestGuard(config.host, config.hosts, config.origins),
            Authenticator(keyring),
        )
        self._runner: web.ServerRunner | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The address that the gateway listens on; empty before it started."""
        return self._url

    async def start(self) -> None:
        """Listen for requests.

        Raises:
            ConfigurationError: The address cannot be used.
        """
        config = self.context.config
        self._runner = web.ServerRunner(
            GatewayServer(self._handler, config), shutdown_timeout=ABORT_GRACE_S
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, config.host, config.port, ssl_context=self._tls)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"{config.host} port {config.port} cannot be used: {error.strerror}",
                hint="Give another address with --host and --port.",
            ) from error
        port = self._runner.addresses[0][1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        self._url = f"{'https' if config.uses_tls else 'http'}://{host}:{port}"

    async def load_model(self) -> None:
        """Start the engine before the first call; a failure is logged, as it may pass."""
        try:
            await self.context.client.capabilities()
        except ServiceError as error:
            log.warning("the model service is not available yet: %s", error)

    async def drain(self, limit_s: float) -> None:
        """Refuse new calls and wait for the running ones; abort those that take too long."""
        self.context.draining = True
        running = self.context.running
        try:
            async with asyncio.timeout(limit_s):
                while running:
                    await asyncio.wait([exchange.ended for exchange in list(running)])
        except TimeoutError:
            log.warning("%d calls did not end within %g s", len(running), limit_s)
        abort_exchanges(
            running, RequestError(503, "shutting_down", "The gateway is shutting down.")
        )

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(0)
        await self.close()


def abort_exchanges(exchanges: Iterable[RunningExchange], error: RequestError) -> None:
    """End exchanges with an error."""
    for exchange in list(exchanges):
        exchange.abort(error)


def _check_exposure(config: GatewayConfig, *, has_keys: bool) -> None:
    if is_loopback(config.host):
        return
    if not has_keys:
        raise ConfigurationError(
            f"{config.host} is reachable from other machines, but there are no keys",
            hint="Create one with `foundry-api keys create --name NAME`, or serve on 127.0.0.1.",
        )
    if not config.uses_tls and not config.insecure_http:
        raise ConfigurationError(
            f"{config.host} is reachable from other machines, and keys would be sent unencrypted",
            hint="Give --tls-cert and --tls-key, or --insecure-http behind a proxy with TLS.",
        )
