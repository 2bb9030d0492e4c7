"""Keeps one engine host running for this process."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from foundry_api.engine.process import HostOptions, HostProcess
from foundry_api.resilience.backoff import Backoff
from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.types.errors import ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

__all__ = ["EngineHost", "HostOptions", "Supervisor"]

RESTART_BACKOFF = Backoff(base_s=0.2, cap_s=10.0)

# The death of a host that ran for so long starts a new series of failures.
HEALTHY_S = 60.0


class EngineHost:
    """One engine host.

    `start` returns at once, so that a caller can do something useful, such as importing an HTTP
    library, before it calls `wait_ready`.
    """

    def __init__(self, options: HostOptions) -> None:
        self._options = options
        self._process: HostProcess | None = None
        self._endpoint: Endpoint | None = None

    def start(self) -> None:
        """Start the process, unless it has been started."""
        if self._process is None:
            self._process = HostProcess.start_private(self._options)

    async def wait_ready(self) -> Endpoint:
        """Wait until the host serves. If the wait is cancelled, the process is killed."""
        self.start()
        process = self._process
        if process is None:  # stopped by another thread since
            raise ServiceStartFailed("the engine host was stopped while it started")
        try:
            ready = await asyncio.to_thread(process.wait_ready)
        except asyncio.CancelledError:
            process.kill()
            raise
        self._endpoint = ready.to_endpoint("embedded")
        return self._endpoint

    @property
    def endpoint(self) -> Endpoint | None:
        """Its endpoint, once it is ready."""
        return self._endpoint

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path | None:
        return self._process.log_path if self._process else None

    def close(self) -> None:
        """Stop the process and wait until it is gone. A second call does nothing."""
        if self._process is not None:
            self._process.stop()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


class Supervisor:
    """Starts the host when its endpoint is first requested, and restarts it after it has died."""

    def __init__(
        self,
        options: HostOptions,
        *,
        backoff: Backoff = RESTART_BACKOFF,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._options = options
        self._backoff = backoff
        self._monotonic = monotonic
        self._sleep = sleep
        self._host: EngineHost | None = None
        self._starting: SingleFlight[Endpoint] = SingleFlight()
        self._started_at = 0.0
        self._failures = 0
        self._starts = 0

    @property
    def host(self) -> EngineHost | None:
        """The host, running or not; None before the first start and after `close`."""
        return self._host

    @property
    def restarts(self) -> int:
        """The number of restarts."""
        return max(0, self._starts - 1)

    def start(self) -> None:
        """Start the host now, so that a later `get_endpoint` waits less."""
        if self._host is None:
            self._host = self._start_host()

    async def get_endpoint(self) -> Endpoint:
        """Return the endpoint of the host, after starting one if none runs."""
        host = self._host
        if host is not None and host.endpoint is not None and host.is_alive:
            return host.endpoint
        return await self._starting.run("host", self._start)

    def close(self) -> None:
        """Stop the host. A later `get_endpoint` starts another one."""
        host, self._host = self._host, None
        self._failures = self._starts = 0
        if host is not None:
            host.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    async def replace(self) -> None:
        """Stop a host whose engine no longer serves. This counts as its death."""
        if self._host is not None:
            await self._host.aclose()

    def retire(self) -> EngineHost | None:
        """Start another host in place of the running one.

        Return the old one, which the caller closes; None if no host runs.
        """
        if self._host is None:
            return None
        host, self._host = self._host, self._start_host()
        return host

    async def _start(self) -> Endpoint:
        if self._host is not None and not self._host.is_alive:
            self._host.close()  # frees its pipes
            self._host = None
            uptime_s = self._monotonic() - self._started_at
            self._failures = 1 if uptime_s >= HEALTHY_S else self._failures + 1
        if self._host is None:
            await self._sleep(self._backoff.delay_s(self._failures))
            self._host = self._start_host()
        host = self._host
        try:
            return await host.wait_ready()
        except ServiceStartFailed:
            self._failures += 1
            self._host = None
            raise
        except asyncio.CancelledError:
            self._host = None
            raise

    def _start_host(self) -> EngineHost:
        host = EngineHost(self._options)
        host.start()
        self._started_at = self._monotonic()
        self._starts += 1
        return host
