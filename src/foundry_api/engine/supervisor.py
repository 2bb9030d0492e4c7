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

    `spawn` returns at once, so that a caller can do something useful, such as importing an HTTP
    library, before it waits with `ready`.
    """

    def __init__(self, options: HostOptions) -> None:
        self._options = options
        self._process: HostProcess | None = None
        self._endpoint: Endpoint | None = None

    def spawn(self) -> None:
        """Start the process, unless it has been started.

        Raises:
            ServiceStartFailed: No process could be started.
        """
        if self._process is None:
            self._process = HostProcess.private(self._options)

    async def ready(self) -> Endpoint:
        """Wait until it serves. A caller that is cancelled meanwhile leaves no process behind.

        Raises:
            ServiceStartFailed: It did not come up; the message ends with its log.
        """
        self.spawn()
        process = self._process
        if process is None:  # stopped by another thread since
            raise ServiceStartFailed("the engine host was stopped while it started")
        try:
            announcement = await asyncio.to_thread(process.announcement)
        except asyncio.CancelledError:
            process.kill()
            raise
        self._endpoint = announcement.endpoint("embedded")
        return self._endpoint

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it serves, once it is ready."""
        return self._endpoint

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Its process id, once it was spawned."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path | None:
        """Its log, once it was spawned."""
        return self._process.log_path if self._process else None

    def stop(self) -> None:
        """End the process; returns when it is gone. Once more does nothing."""
        if self._process is not None:
            self._process.stop()

    async def astop(self) -> None:
        """As `stop`, without blocking the event loop."""
        await asyncio.to_thread(self.stop)


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
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._options = options
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        self._host: EngineHost | None = None
        self._starting: SingleFlight[Endpoint] = SingleFlight()
        self._born_at = 0.0
        self._failures = 0
        self._starts = 0

    @property
    def host(self) -> EngineHost | None:
        """The host, dead or alive; None before the first start and after `stop`."""
        return self._host

    @property
    def restarts(self) -> int:
        """How often a host had to be started again."""
        return max(0, self._starts - 1)

    def spawn(self) -> None:
        """Start the first host now, so that a later `endpoint` waits less.

        Raises:
            ServiceStartFailed: No process could be started.
        """
        if self._host is None:
            self._host = self._spawned()

    async def endpoint(self) -> Endpoint:
        """Where the host serves; starts one if there is none or the last one died.

        Raises:
            ServiceStartFailed: It did not come up.
        """
        host = self._host
        if host is not None and host.endpoint is not None and host.alive:
            return host.endpoint
        return await self._starting.run("host", self._start)

    def stop(self) -> None:
        """End the host. A later `endpoint` starts another one."""
        host, self._host = self._host, None
        self._failures = self._starts = 0
        if host is not None:
            host.stop()

    async def astop(self) -> None:
        """As `stop`, without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    async def replace(self) -> None:
        """End a host whose engine does not serve any more; counts as its death."""
        if self._host is not None:
            await self._host.astop()

    async def _start(self) -> Endpoint:
        if self._host is not None and not self._host.alive:
            self._bury(self._host)
        if self._host is None:
            await self._sleep(self._backoff.delay_s(self._failures))
            self._host = self._spawned()
        host = self._host
        try:
            return await host.ready()
        except ServiceStartFailed:
            self._failures += 1
            self._host = None
            raise
        except asyncio.CancelledError:
            self._host = None
            raise

    def _bury(self, host: EngineHost) -> None:
        host.stop()  # frees its pipes
        lived_s = self._clock() - self._born_at
        self._failures = 1 if lived_s >= HEALTHY_S else self._failures + 1
        self._host = None

    def _spawned(self) -> EngineHost:
        host = EngineHost(self._options)
        host.spawn()
        self._born_at = self._clock()
        self._starts += 1
        return host
