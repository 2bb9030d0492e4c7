"""One look at a service, bounded in time, that never stands in a caller's way."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from foundry_api.monitor import health
from foundry_api.monitor.process import ProcessFacts, ProcessProbe
from foundry_api.types.errors import ClientClosed, FoundryError, ServiceError, ServiceNotRunning
from foundry_api.types.user_code import UserCode, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from foundry_api.core.connection import Connection
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.wire.dialects.base import ServiceStatus

__all__ = ["BackgroundValue", "Probe", "ProbeResult", "RequiredModels"]


_T = TypeVar("_T")


class BackgroundValue(Generic[_T]):
    """Makes one value at a time, in a task of its own that outlives whoever gives up waiting.

    Nothing of a finished event loop is kept, so the same object serves several, one after another.

    Attributes:
        value: What the last making that ended gave; None before the first.
    """

    def __init__(self) -> None:
        self.value: _T | None = None
        self._task: asyncio.Task[_T] | None = None

    @property
    def pending(self) -> bool:
        """Whether a making is under way."""
        return self._task is not None

    async def refresh(self, load: Callable[[], Coroutine[None, None, _T]], wait_s: float) -> bool:
        """Make the value anew, unless that is under way; whether it was done within the wait.

        Args:
            load: Makes it.
            wait_s: Seconds to wait.

        Raises:
            FoundryError: What `make` raised.
        """
        task = self._task
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            # What is made is nobody's own: a deadline around the first who asks must not end it.
            task = self._task = asyncio.create_task(load(), context=contextvars.Context())
            task.add_done_callback(_consume_exception)
        await asyncio.wait({task}, timeout=max(0.0, wait_s))
        if not task.done():
            return False
        if self._task is task:
            self._task = None
        self.value = task.result()
        return True

    async def reset(self) -> None:
        """Drop the value, and end a making that is under way."""
        self.value = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _consume_exception(task: asyncio.Task[_T]) -> None:
    """Everybody may have given up waiting: no "never retrieved" in the log."""
    if not task.cancelled():
        task.exception()


log = logging.getLogger("foundry_api")

SUSPENDED_RATIO = 0.25
MAX_RETRIES = 3
"""A bound that this process itself noticed late says nothing of the service, so the look is made
again. A machine that was asleep, or a task that blocks the event loop, would be an outage else."""

FIRST_TIMEOUT_S = 5.0
"""What the first look of all waits for the service to be found or started, if it has to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What one look saw.

    Attributes:
        service: Its base URL; None if none was found.
        error: Why there was no answer, or why it cannot be used; None if it answered.
        pending: Whether it is still being looked for or started, so that nothing is known yet.
        latency_s: Seconds that its status route took.
        service_generation: Of Foundry Local.
        version: Of the engine, or what its fingerprint tells of it.
        pid: Its process, if it tells.
        process: That process, where it is ours to see.
        loaded: Ids of the models in memory; None while that is not known yet.
        loaded_error: Why the models in memory are not known.
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


class _SlowResponse(ServiceNotRunning):
    """It is there, but did not answer in time: it may be busy, so it is not found anew."""


class Probe:
    """Looks at a service: its status route first, which answers while the engine generates.

    Neither the breaker nor the limiter has a say. What may take long, such as finding the service
    or its list of loaded models, goes on in a task of its own, and a look takes what is there.

    Args:
        service: What to look at.
        timeout_s: Bound of a look in seconds.
    """

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
        """Look once.

        Raises:
            ClientClosed: The client was closed.
        """
        code = UserCode()
        try:
            return await self._probe()
        except FoundryError:
            raise
        except BaseException as error:
            if not code.is_own_failure(error):
                raise
            # Of the caller's own code, such as a transport. A look that is missing among the
            # samples would be taken for a service that is well.
            log.exception("a look failed")
            hint = "The log has where it was raised."
            failure = ServiceError(f"the look failed: {describe(error)}", hint=hint)
            return ProbeResult(service=None, error=failure)

    async def _probe(self) -> ProbeResult:
        try:
            connection = await self._connect()
        except ClientClosed:
            raise
        except FoundryError as error:
            return ProbeResult(
                service=error.service,
                error=error,
                pending=self._connecting.pending,
            )
        try:
            status, latency_s = await self._get_status(connection)
        except FoundryError as error:
            self._invalidate(connection, error)
            return ProbeResult(service=connection.endpoint.base_url, error=error)
        await self._update_connection(connection, status)
        due = asyncio.get_running_loop().time() + self._timeout_s - latency_s
        loaded_error, process = await asyncio.gather(
            self._refresh_loaded(connection, status, due),
            self._refresh_process(connection, status, due),
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
        )

    async def aclose(self) -> None:
        """End what goes on in the background."""
        for value in (self._connecting, self._loaded, self._process):
            await value.reset()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)

    async def _connect(self) -> Connection:
        if self._service.connection is not None:
            return self._service.connection
        wait_s = self._timeout_s if self._has_connected else max(self._timeout_s, FIRST_TIMEOUT_S)
        self._has_connected = True
        if await self._connecting.refresh(self._service.connect, wait_s):
            connection, self._connecting.value = self._connecting.value, None
            if connection is not None:
                return connection
        raise ServiceNotRunning("the service is still being looked for or started", hint="")

    async def _get_status(self, connection: Connection) -> tuple[ServiceStatus, float]:
        loop, timeout_s = asyncio.get_running_loop(), self._timeout_s
        for _ in range(MAX_RETRIES):
            started = loop.time()
            try:
                async with asyncio.timeout_at(started + timeout_s):
                    status = await connection.dialect.get_status()
            except TimeoutError:
                if loop.time() - started < timeout_s * (1 + SUSPENDED_RATIO):
                    break
            else:
                return status, loop.time() - started
        raise _SlowResponse(
            f"{connection.endpoint.base_url} did not answer within {timeout_s:g} s",
            hint="It hangs, or the machine has more to do than it can.",
            service=connection.endpoint.base_url,
        )

    def _invalidate(self, connection: Connection, error: FoundryError) -> None:
        """Have the service found again, as a caller who met this error would."""
        if isinstance(error, ServiceError) and not isinstance(error, _SlowResponse):
            self._service.invalidate(connection)

    async def _update_connection(self, connection: Connection, status: ServiceStatus) -> None:
        """What was known of another connection, or of another process, says nothing of this one."""
        if None not in (pids := {connection.endpoint.pid, status.pid}) and len(pids) > 1:
            self._service.invalidate(connection)
        if connection is not self._connection:
            self._connection = connection
            await self._loaded.reset()
            await self._process.reset()

    async def _refresh_loaded(
        self, connection: Connection, status: ServiceStatus, due: float
    ) -> FoundryError | None:
        wait_s = due - asyncio.get_running_loop().time()
        try:
            await self._loaded.refresh(lambda: connection.loaded_model_ids(status), wait_s)
        except FoundryError as error:
            self._loaded.value = None
            return error
        return None

    async def _refresh_process(
        self, connection: Connection, status: ServiceStatus, due: float
    ) -> ProcessFacts | None:
        pid = health.get_local_pid(connection, status)
        if pid is None:
            return None
        loop = asyncio.get_running_loop()
        # A thread of its own, because the loop's may all be busy with the program's work.
        self._thread = self._thread or ThreadPoolExecutor(1, "foundry-api-monitor")
        thread = self._thread

        async def read() -> ProcessFacts | None:
            return await loop.run_in_executor(thread, self._process_probe.read, pid)

        await self._process.refresh(read, due - loop.time())
        process = self._process.value
        return process if process is not None and process.pid == pid else None


RETRY_S = 30.0
"""Finding what a name means may cost the service 4 s for its catalog, so it is not tried often."""


class RequiredModels:
    """Names of models, and the ids that they mean.

    An id, with its version or without, tells itself. What an alias means is asked for in the
    background, because that may take seconds.

    Args:
        names: Aliases, ids, or ids without version, in any case.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._resolved: dict[str, str] = {}
        self._resolving: BackgroundValue[dict[str, str]] = BackgroundValue()
        self._connection: Connection | None = None
        self._refresh_at = 0.0

    def find_loaded(self, loaded: Iterable[str]) -> dict[str, str]:
        """The names whose models are in memory, with their ids."""
        ids = {id_.lower(): id_ for id_ in loaded}
        without_version = {id_.rpartition(":")[0] or id_: full for id_, full in ids.items()}
        loaded_ids = {
            name: ids.get(self._resolved.get(name, name).lower())
            or without_version.get(name.strip().lower())
            for name in self.names
        }
        return {name: id_ for name, id_ in loaded_ids.items() if id_ is not None}

    async def refresh(self, connection: Connection, missing: Iterable[str]) -> None:
        """Find out what names mean, some time soon.

        Args:
            connection: Whom to ask.
            missing: The names.
        """
        if connection is not self._connection:
            await self._resolving.reset()
            self._connection, self._resolved, self._refresh_at = connection, {}, 0.0
        names = [name for name in missing if name not in self._resolved]
        now = asyncio.get_running_loop().time()
        if not names or (now < self._refresh_at and not self._resolving.pending):
            return
        self._refresh_at = now + RETRY_S
        if await self._resolving.refresh(lambda: _resolve_names(connection, names), 0.0):
            self._resolved |= self._resolving.value or {}

    async def aclose(self) -> None:
        """End what goes on in the background."""
        await self._resolving.reset()


async def _resolve_names(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    meant: dict[str, str] = {}
    for name in names:
        try:
            meant[name] = (await connection.resolve(name, download=True)).id
        except FoundryError:  # it is missing either way, which the sample tells
            continue
    return meant
