"""A single check of a service, limited in time, that never delays callers."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.monitor import health
from foundry_api.monitor.background_value import BackgroundValue
from foundry_api.monitor.process import ProcessFacts, ProcessProbe
from foundry_api.types.errors import ClientClosed, FoundryError, ServiceError, ServiceNotRunning
from foundry_api.types.user_code import UserCode, describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.core.connection import Connection
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.wire.dialects.base import ServiceStatus

__all__ = ["Probe", "ProbeResult", "RequiredModels"]

log = logging.getLogger("foundry_api")

# If this process notices a time-out late by this share of it, the machine was asleep or a task
# blocked the event loop. That says nothing about the service, so the request is repeated.
SUSPENDED_RATIO = 0.25
MAX_RETRIES = 3

# How long the first check waits for the service to be found or started, if needed.
FIRST_TIMEOUT_S = 5.0

# Resolving a name may cost the service 4 s for its catalog, so it is not tried often.
RETRY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The result of one check.

    Attributes:
        service: Its base URL; None if none was found.
        error: Why it did not answer or cannot be used; None if it answered.
        pending: Whether the service is still being found or started, so that nothing is known yet.
        latency_s: Response time of its status route in seconds.
        version: Of the engine, or the range of versions that its routes show.
        process: Facts of its process; None if this user may not read it.
        loaded: Ids of the models in memory; None if not known yet.
        loaded_error: Why the models in memory are not known.
        status: What its status route reports; None if it did not answer.
    """

    service: str | None
    error: FoundryError | None = None
    pending: bool = False
    latency_s: float | None = None
    service_generation: ServiceGeneration | None = None
    version: str | None = None
    pid: int | None = None
    process: ProcessFacts | None = None
    loaded: frozenset[str] | None = None
    loaded_error: FoundryError | None = None
    status: ServiceStatus | None = None


class _SlowResponse(ServiceNotRunning):
    """The service did not answer in time. It may be busy, so the connection stays valid."""


class Probe:
    """Checks a service by its status route, which answers while the engine generates."""

    # It uses neither the circuit breaker nor the limiter. Work that may take long, such as finding
    # the service or listing its loaded models, runs in the background; a check uses its last
    # result.

    def __init__(self, service: ServiceHandle, timeout_s: float) -> None:
        self._service = service
        self._timeout_s = timeout_s
        self._connecting: BackgroundValue[Connection] = BackgroundValue()
        self._loaded: BackgroundValue[frozenset[str]] = BackgroundValue()
        self._process: BackgroundValue[ProcessFacts | None] = BackgroundValue()
        self._process_probe = ProcessProbe()
        self._thread: ThreadPoolExecutor | None = None
        self._connection: Connection | None = None
        self._has_connected = False

    @property
    def connection(self) -> Connection | None:
        """The connection that answered last."""
        return self._connection

    async def run(self) -> ProbeResult:
        """Check the service once; raises ClientClosed if the client is closed."""
        code = UserCode()
        try:
            return await self._probe()
        except FoundryError:
            raise
        except BaseException as error:
            if not code.is_own_failure(error):
                raise
            # Raised by the user's own code, such as a transport. Without a sample, the monitor's
            # users would believe that the service is healthy.
            log.exception("a health check failed")
            hint = "The log has the traceback."
            failure = ServiceError(f"the health check failed: {describe(error)}", hint=hint)
            return ProbeResult(service=None, error=failure)

    async def aclose(self) -> None:
        """Stop the work in the background."""
        for value in (self._connecting, self._loaded, self._process):
            await value.reset()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)

    async def _probe(self) -> ProbeResult:
        try:
            connection = await self._connect()
        except ClientClosed:
            raise
        except FoundryError as error:
            return ProbeResult(
                service=error.service, error=error, pending=self._connecting.is_pending
            )
        try:
            status, latency_s = await self._get_status(connection)
        except FoundryError as error:
            # As in a call that fails this way, the next one finds or starts the service again.
            if isinstance(error, ServiceError) and not isinstance(error, _SlowResponse):
                self._service.invalidate(connection)
            return ProbeResult(service=connection.endpoint.base_url, error=error)
        # Another process has taken the place of the service that was found.
        if None not in (pids := {connection.endpoint.pid, status.pid}) and len(pids) > 1:
            self._service.invalidate(connection)
        if connection is not self._connection:
            self._connection = connection
            await self._loaded.reset()
            await self._process.reset()
        deadline = asyncio.get_running_loop().time() + self._timeout_s - latency_s
        loaded_error, process = await asyncio.gather(
            self._refresh_loaded(connection, status, deadline),
            self._refresh_process(connection, status, deadline),
        )
        return ProbeResult(
            service=connection.endpoint.base_url,
            latency_s=latency_s,
            service_generation=status.service_generation,
            version=health.get_version(connection, status),
            pid=status.pid,
            process=process,
            loaded=self._loaded.value,
            loaded_error=loaded_error,
            status=status,
        )

    async def _connect(self) -> Connection:
        if self._service.connection is not None:
            return self._service.connection
        wait_s = self._timeout_s if self._has_connected else max(self._timeout_s, FIRST_TIMEOUT_S)
        self._has_connected = True
        if await self._connecting.refresh(self._service.connect, wait_s):
            connection, self._connecting.value = self._connecting.value, None
            if connection is not None:
                return connection
        raise ServiceNotRunning("the service is still being found or started", hint="")

    async def _get_status(self, connection: Connection) -> tuple[ServiceStatus, float]:
        """Request the status route, and return the response time as well."""
        loop, timeout_s = asyncio.get_running_loop(), self._timeout_s
        for _ in range(MAX_RETRIES):
            started_at = loop.time()
            try:
                async with asyncio.timeout_at(started_at + timeout_s):
                    status = await connection.dialect.get_status()
            except TimeoutError:
                if loop.time() - started_at < timeout_s * (1 + SUSPENDED_RATIO):
                    break
            else:
                return status, loop.time() - started_at
        raise _SlowResponse(
            f"{connection.endpoint.base_url} did not answer within {timeout_s:g} s",
            hint="It hangs, or the machine is overloaded.",
            service=connection.endpoint.base_url,
        )

    async def _refresh_loaded(
        self, connection: Connection, status: ServiceStatus, deadline: float
    ) -> FoundryError | None:
        """Refresh the list of loaded models; returns the error if that fails."""
        wait_s = deadline - asyncio.get_running_loop().time()
        try:
            await self._loaded.refresh(lambda: connection.list_loaded_ids(status), wait_s)
        except FoundryError as error:
            self._loaded.value = None
            return error
        return None

    async def _refresh_process(
        self, connection: Connection, status: ServiceStatus, deadline: float
    ) -> ProcessFacts | None:
        pid = health.get_local_pid(connection, status)
        if pid is None:
            return None
        loop = asyncio.get_running_loop()
        # Its own thread, because the program's work may occupy all threads of the event loop.
        self._thread = self._thread or ThreadPoolExecutor(1, "foundry-api-monitor")
        thread = self._thread

        async def read() -> ProcessFacts | None:
            return await loop.run_in_executor(thread, self._process_probe.read, pid)

        await self._process.refresh(read, deadline - loop.time())
        process = self._process.value
        return process if process is not None and process.pid == pid else None


class RequiredModels:
    """The names of the required models: aliases, ids, or ids without a version, in any case."""

    # An id is recognised as it is. An alias is resolved in the background, which may take seconds.

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._resolved: dict[str, str] = {}
        self._resolving: BackgroundValue[dict[str, str]] = BackgroundValue()
        self._connection: Connection | None = None
        self._refresh_at = 0.0

    def find_loaded(self, loaded: Iterable[str]) -> dict[str, str]:
        """Return the names whose models are in memory, with the models' ids."""
        ids = {id_.lower(): id_ for id_ in loaded}
        without_version = {id_.rpartition(":")[0] or id_: full for id_, full in ids.items()}
        loaded_ids = {
            name: ids.get(self._resolved.get(name, name).lower())
            or without_version.get(name.strip().lower())
            for name in self.names
        }
        return {name: id_ for name, id_ in loaded_ids.items() if id_ is not None}

    async def refresh(self, connection: Connection, missing: Iterable[str]) -> None:
        """Resolve the names of missing models in the background."""
        # What was resolved for another connection may be wrong for this one.
        if connection is not self._connection:
            await self._resolving.reset()
            self._connection, self._resolved, self._refresh_at = connection, {}, 0.0
        names = [name for name in missing if name not in self._resolved]
        current = asyncio.get_running_loop().time()
        if not names or (current < self._refresh_at and not self._resolving.is_pending):
            return

        async def resolve() -> dict[str, str]:
            ids: dict[str, str] = {}
            for name in names:
                try:
                    ids[name] = (await connection.resolve(name, download=True)).id
                except FoundryError:  # the model is missing anyway, which the sample reports
                    continue
            return ids

        self._refresh_at = current + RETRY_S
        if await self._resolving.refresh(resolve, 0.0):
            self._resolved |= self._resolving.value or {}

    async def aclose(self) -> None:
        """Stop the work in the background."""
        await self._resolving.reset()
