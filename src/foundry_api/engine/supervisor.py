"""Keeping one engine host alive for this process."""

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


class EngineHost:
    """One engine host, from its start to its end.

    `start` returns at once, so that a caller can do something useful, such as importing an HTTP
    library, before it waits with `wait_ready`.
    """

    def __init__(self, options: HostOptions) -> None:
        self._options = options
        self._process: HostProcess | None = None
        self._endpoint: Endpoint | None = None

    def start(self) -> None:
        """Start the process, unless it has been started.

        Raises:
            ServiceStartFailed: No process could be started.
        """
        if self._process is None:
            self._process = HostProcess.start_private(self._options)

    async def wait_ready(self) -> Endpoint:
        """Wait until it serves. A caller that is cancelled meanwhile leaves no process behind.

        Raises:
            ServiceStartFailed: It did not come up; the message ends with its log.
        """
        self.start()
        process = self._process
        if process is None:  # stopped by another thread since
            raise ServiceStartFailed("the engine host was stopped while it started")
        try:
            announcement = await asyncio.to_thread(process.wait_ready)
        except asyncio.CancelledError:
            process.kill()
            raise
        self._endpoint = announcement.to_endpoint("embedded")
        return self._endpoint

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it serves, once it is ready."""
        return self._endpoint

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.is_alive

    @property
    def pid(self) -> int | None:
        """Its process id, once it was spawned."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path | None:
        """Its log, once it was spawned."""
        return self._process.log_path if self._process else None

    def close(self) -> None:
        """End the process; returns when it is gone. Once more does nothing."""
        if self._process is not None:
            self._process.stop()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)


RESTART_BACKOFF = Backoff(base_s=0.2, cap_s=10.0)
HEALTHY_S = 60.0
"""A host that lived so long is not part of a series of failures."""


class Supervisor:
    """Has a host running whenever somebody asks for its endpoint.

    Args:
        options: What the host serves and where.
        backoff: Waiting before restarts.
        clock: Seconds of a clock that never goes back.
        sleep: Waits for so many seconds.
    """

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
        """The host, dead or alive; None before the first start and after `close`."""
        return self._host

    @property
    def restarts(self) -> int:
        """How often a host had to be started again."""
        return max(0, self._starts - 1)

    def start(self) -> None:
        """Start the first host now, so that a later `get_endpoint` waits less.

        Raises:
            ServiceStartFailed: No process could be started.
        """
        if self._host is None:
            self._host = self._start_host()

    async def get_endpoint(self) -> Endpoint:
        """Where the host serves; starts one if there is none or the last one died.

        Raises:
            ServiceStartFailed: It did not come up.
        """
        host = self._host
        if host is not None and host.endpoint is not None and host.is_alive:
            return host.endpoint
        return await self._starting.run("host", self._start)

    def close(self) -> None:
        """End the host. A later `get_endpoint` starts another one."""
        host, self._host = self._host, None
        self._failures = self._starts = 0
        if host is not None:
            host.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    async def replace(self) -> None:
        """End a host whose engine does not serve any more; counts as its death."""
        if self._host is not None:
            await self._host.aclose()

    async def _start(self) -> Endpoint:
        if self._host is not None and not self._host.is_alive:
            self._reap(self._host)
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

    def _reap(self, host: EngineHost) -> None:
        host.close()  # frees its pipes
        uptime_s = self._monotonic() - self._started_at
        self._failures = 1 if uptime_s >= HEALTHY_S else self._failures + 1
        self._host = None

    def _start_host(self) -> EngineHost:
        host = EngineHost(self._options)
        host.start()
        self._started_at = self._monotonic()
        self._starts += 1
        return host
