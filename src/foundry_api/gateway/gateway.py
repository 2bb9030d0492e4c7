"""A gateway: its parts put together, started, reloaded and stopped."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from foundry_api.gateway.audit import AuditFile, AuditLog
from foundry_api.gateway.authentication import Authenticator
from foundry_api.gateway.batches.manager import BatchManager
from foundry_api.gateway.context import GatewayContext
from foundry_api.gateway.dashboard.live import LiveFeed
from foundry_api.gateway.errors import RequestError, UnsafeAddress
from foundry_api.gateway.files.store import FileStore
from foundry_api.gateway.guard import WILDCARDS, RequestGuard, is_loopback
from foundry_api.gateway.handler import GatewayHandler
from foundry_api.gateway.history_file import HistoryFile
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.keyring import Keyring
from foundry_api.gateway.limits.admission import Admission
from foundry_api.gateway.limits.broken_calls import on_call_ended
from foundry_api.gateway.limits.persistence import BUDGET_FILE, BudgetFile, BudgetSaver
from foundry_api.gateway.routes import ROUTES
from foundry_api.gateway.routing import Router
from foundry_api.gateway.running import LOCK_NAME, RunningGatewayFile
from foundry_api.gateway.server import GatewayServer, TlsFiles
from foundry_api.gateway.sessions import Sessions
from foundry_api.gateway.upstreams.slots import NamedSlots, count_queue_slots, count_slots
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.events import CallEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.context import RunningExchange
    from foundry_api.gateway.warm_up import WarmUp

__all__ = ["Gateway"]

log = logging.getLogger("foundry_api.gateway")

# A check whether the lock is held takes it for a moment.
LOCK_TIMEOUT_S = 0.2


class Gateway:
    """A gateway on one event loop.

    Args:
        config: The settings.
        client: Calls the service behind the gateway. The gateway does not close it.
        directory: Where its keys and counters are.
        warm_up: The start of the engine, until whose end the gateway is not ready.
        monotonic: A clock for durations.
        wall_clock: Seconds since the epoch.

    Attributes:
        context: What its handlers share.
    """

    def __init__(
        self,
        config: GatewayConfig,
        client: FoundryAPIClient,
        directory: Path,
        *,
        warm_up: WarmUp | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = KeyDatabase(directory, pepper_file=config.pepper_file)
        keyring = Keyring(
            self._database,
            on_revoked=self._end_calls,
            wall_clock=wall_clock,
            monotonic=monotonic,
        )
        admission = Admission(
            config,
            partial(count_slots, client),
            partial(count_queue_slots, client),
            upstreams=None if client.settings.services is None else NamedSlots(client),
            monotonic=monotonic,
            wall_clock=keyring.now,  # a clock that is set back renews no budget
        )
        client.events.subscribe(on_call_ended, CallEnded)
        saver = BudgetSaver(
            BudgetFile(directory / BUDGET_FILE, wall_clock=keyring.now), admission, keyring
        )
        audit = AuditLog(
            AuditFile(directory) if config.audit_log else None,
            monotonic=monotonic,
            wall_clock=wall_clock,
        )
        self.context = GatewayContext(
            config,
            client,
            keyring,
            Sessions(keyring, monotonic=monotonic),
            admission,
            saver,
            audit,
            FileStore(
                directory,
                max_bytes=config.max_stored_bytes,
                max_key_bytes=config.stored_bytes_per_key,
                wall_clock=wall_clock,
            ),
            self.reload,
            warm_up=warm_up,
            monotonic=monotonic,
            wall_clock=wall_clock,
        )
        self._batches = BatchManager(self.context)
        self.context.batches = self._batches
        self._history_file = HistoryFile(
            directory, self.context.metrics.history, wall_clock=wall_clock
        )
        self._live = LiveFeed(self.context)
        self.context.live = self._live
        guard = RequestGuard(config.host, config.hosts, config.origins)
        self._handler = GatewayHandler(
            self.context,
            Router(ROUTES),
            guard,
            Authenticator(keyring, self.context.sessions, guard, audit),
        )
        self._lock = FileLock(directory / LOCK_NAME, timeout_s=LOCK_TIMEOUT_S)
        self._running_file = RunningGatewayFile(directory)
        self._tls: TlsFiles | None = None
        self._resources = AsyncExitStack()
        self._url = ""

    @property
    def url(self) -> str:
        """The address that the gateway listens on; empty before it started."""
        return self._url

    async def check(self) -> None:
        """Read the keys and the TLS files, and check that the address is safe.

        Raises:
            UnsafeAddress: Other machines could call it without a key or without encryption.
            ConfigurationError: A file cannot be used, or the gateway would call itself.
            KeyStorageFailed: The keys cannot be read.
        """
        keyring = self.context.keyring
        await keyring.open()
        self._resources.push_async_callback(keyring.close)
        config, settings = self.context.config, self.context.client.settings
        upstreams = (upstream.url for upstream in config.upstream)
        for url in (settings.base_url, *settings.base_urls, *upstreams):
            if url is not None and _is_own_address(config, url):
                raise ConfigurationError(
                    f"the service behind the gateway would be the gateway itself, at {url}",
                    hint="Give the address of the service, and unset FOUNDRY_BASE_URL where the "
                    "gateway runs.",
                )
        _check_exposure(config, has_keys=bool(keyring.keys))
        if config.tls_cert is not None and config.tls_key is not None:
            self._tls = TlsFiles(config.tls_cert, config.tls_key)

    async def start(self) -> None:
        """Listen for requests.

        Raises:
            ConfigurationError: As in `check`, or the address is in use, or another gateway uses
                the directory.
        """
        await self.check()
        config, resources = self.context.config, self._resources
        self._take_directory()
        self._connect_limiters()
        await self._running_file.remove()  # of one that was killed
        resources.push_async_callback(self._close_audit)
        saver = self.context.saver
        await saver.open()
        resources.push_async_callback(saver.close)
        files = self.context.files
        await files.open()
        resources.push_async_callback(files.close)
        await self._history_file.open()
        resources.push_async_callback(self._history_file.save)
        await self._batches.start()
        resources.push_async_callback(self._batches.stop)
        watch_upstreams = self.context.upstreams.watch(
            config.upstream_check_s, self._on_upstream_checked
        )
        for watch in (
            self.context.keyring.watch(),
            saver.watch(),
            files.watch(),
            self._history_file.watch(),
            self._live.run(),
            watch_upstreams,
        ):
            resources.push_async_callback(_cancel, asyncio.ensure_future(watch))
        context = self.context
        for timers in (context.call_timers, context.stream_timers, context.admission.timeouts):
            resources.callback(timers.cancel)
        server = GatewayServer(self._handler, config)
        resources.push_async_callback(server.aclose)
        try:
            listener = await server.listen(config.host, config.port, self._tls)
        except OSError as error:
            raise ConfigurationError(
                f"{config.host} port {config.port} cannot be used: {error.strerror}",
                hint="Give another address with --host and --port.",
            ) from error
        resources.callback(listener.close)
        port = listener.port
        host = f"[{config.host}]" if ":" in config.host else config.host
        self._url = f"{'https' if config.uses_tls else 'http'}://{host}:{port}"
        self.context.audit.record("gateway.start", target=self._url)
        await self._running_file.write(self._url)
        resources.push_async_callback(self._running_file.remove)

    async def reload(self) -> None:
        """Read keys with their limits, those of upstreams, and TLS files. Calls go on.

        Raises:
            ConfigurationError: A file cannot be used; what it had before stays in use.
        """
        await self.context.keyring.reload()
        await asyncio.to_thread(self.context.upstreams.reload_keys)
        if self._tls is not None:
            await asyncio.to_thread(self._tls.reload)

    async def drain(self, limit_s: float) -> None:
        """Refuse new calls and wait for the running ones; abort those that take too long."""
        self.context.draining = True
        await self._batches.stop()  # what was answered is stored, and the next start goes on
        # Their subscribers stay as long as they may.
        self.context.model_events.close()
        self._live.close()
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

    async def aclose(self) -> None:
        """Stop listening, close all connections, and let go of the directory."""
        await self._resources.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(0)
        await self.aclose()

    async def _close_audit(self) -> None:
        if self._url:
            self.context.audit.record("gateway.stop", target=self._url)
        await self.context.audit.close()

    def _connect_limiters(self) -> None:
        """Let the limiters know of the calls that wait here, and these of slots that they gain."""
        admission = self.context.admission
        for service in self.context.client.services:
            name = "" if service.offer is None else service.offer.options.name
            service.limiter.has_callers = partial(admission.has_waiting, name)
            service.limiter.on_raised = admission.scheduler.start_waiting

    def _on_upstream_checked(self) -> None:
        context = self.context
        self._connect_limiters()  # also those of nodes that joined a cluster
        context.model_names.update(context.upstreams.models)
        context.admission.scheduler.start_waiting()  # it may have come back, with its slots

    def _end_calls(self, key_ids: AbstractSet[str]) -> None:
        """End the running calls of keys that were revoked or have expired."""
        abort_exchanges(
            [one for one in self.context.running if one.key is not None and one.key.id in key_ids],
            RequestError(
                401, "invalid_api_key", "The key of this call was revoked or has expired."
            ),
        )

    def _take_directory(self) -> None:
        try:
            self._resources.enter_context(self._lock)
        except LockTimeout as error:
            raise ConfigurationError(
                f"another gateway uses {self._database.path.parent}",
                hint="Stop it, or give this one another directory.",
            ) from error
        except OSError as error:  # of the lock itself
            raise ConfigurationError(
                f"{error.filename} cannot be locked: {error.strerror}",
                hint="Check the permissions of the directory, or give the gateway another one.",
            ) from error


async def _cancel(task: asyncio.Future[None]) -> None:
    """Cancel a task, and wait until it has ended, with the processes that it started."""
    task.cancel()
    await asyncio.wait({task})


def abort_exchanges(exchanges: Iterable[RunningExchange], error: RequestError) -> None:
    """End exchanges with an error."""
    for exchange in list(exchanges):
        exchange.abort(error)


def _is_own_address(config: GatewayConfig, url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_local = is_loopback(config.host) or config.host in WILDCARDS
    is_same_host = host == config.host or (is_local and is_loopback(host))
    return is_same_host and parts.port == config.port


def _check_exposure(config: GatewayConfig, *, has_keys: bool) -> None:
    if is_loopback(config.host):
        return
    if not has_keys:
        raise UnsafeAddress(
            f"{config.host} is reachable from other machines, but there are no keys",
            hint="Create one with `foundry-api keys create --name NAME`, or serve on 127.0.0.1.",
        )
    if not config.uses_tls and not config.insecure_http:
        raise UnsafeAddress(
            f"{config.host} is reachable from other machines, and keys would be sent unencrypted",
            hint="Give --tls-cert and --tls-key, or --insecure-http behind a proxy with TLS.",
        )
