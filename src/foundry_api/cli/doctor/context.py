"""The context of checks: settings, and work whose result several checks need."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

import psutil

from foundry_api.engine import discovery, foundry_command
from foundry_api.engine.control import ControlClient
from foundry_api.engine.process import HostOptions
from foundry_api.engine.supervisor import EngineHost
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import CatalogUnavailable, FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.types.models import Model
    from foundry_api.types.settings import Settings
    from foundry_api.wire.transport import Transport

__all__ = ["CommandResults", "DiagnosticContext", "LazyTask", "Probes", "run_abandonable"]

_T = TypeVar("_T")

# A cold start of a .NET program takes a second or two on a busy machine.
COMMAND_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What checks measure, for tests to replace."""

    disk_free: Callable[[Path], int] = lambda directory: shutil.disk_usage(directory).free
    memory_available: Callable[[], int] = lambda: psutil.virtual_memory().available
    ports: Sequence[int] = discovery.KNOWN_PORTS
    command_timeout_s: float = COMMAND_TIMEOUT_S
    host_options: Callable[[Paths], HostOptions] = lambda paths: HostOptions(paths=paths)


@dataclass(frozen=True, slots=True)
class CommandResults:
    """The output of Foundry's own command."""

    version: foundry_command.CommandResult
    server: foundry_command.CommandResult
    service: foundry_command.CommandResult


class LazyTask(Generic[_T]):
    """Work that starts on the first `get` and runs once for all callers."""

    def __init__(self, work: Callable[[], Coroutine[None, None, _T]]) -> None:
        self._work = work
        self._task: asyncio.Task[_T] | None = None

    async def get(self) -> _T:
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        # Shielded: a check that times out must not cancel the work of the others.
        return await asyncio.shield(self._task)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class DiagnosticContext:
    """Settings, environment and shared work of the checks.

    Args:
        settings: Settings without the variables that are invalid.
        environ: The environment, unchanged.
        model: The model that the user asked about.
        quick: Start no engine, and do not query the remote catalog.
        online: Query the remote catalog, even if an engine must be started for that.
        gateway_config: The TOML file of the gateway; None if it has none.
        probes: What checks measure.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        model: str | None = None,
        quick: bool = False,
        online: bool = False,
        gateway_config: Path | None = None,
        probes: Probes | None = None,
    ) -> None:
        self.settings = settings
        self.environ = environ
        self.model = model
        self.quick = quick
        self.online = online
        self.gateway_config = gateway_config
        self.probes = probes or Probes()
        self.paths = Paths.from_home(settings.home)
        self.starts_engine = online or not (quick or settings.base_url or settings.base_urls)
        self.shared = LazyTask(lambda: discovery.find_shared(self.paths, self.get_transport))
        self.own_engine = LazyTask(self._start_host)
        self.command = LazyTask(self._run_command)
        self.catalog = LazyTask(self._query_catalog)
        self.start_duration_s = 0.0
        self._transport: Transport | None = None
        self._host: EngineHost | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        for task in (self.catalog, self.shared, self.own_engine, self.command):
            await task.aclose()
        if self._host is not None:
            await self._host.aclose()
        if self._transport is not None:
            await self._transport.aclose()

    def get_transport(self) -> Transport:
        if self._transport is None:
            from foundry_api.wire.http import HttpTransport  # noqa: PLC0415 - used by few checks

            self._transport = HttpTransport(self.settings.connect_timeout_s)
        return self._transport

    async def get_host(self) -> Endpoint | None:
        """Return the shared engine, else the one started for the checks; None without either."""
        if endpoint := await self.shared.get():
            return endpoint
        if not self.starts_engine:
            return None
        with contextlib.suppress(FoundryError):  # reported by the check of the engine
            return await self.own_engine.get()
        return None

    async def get_control(self) -> ControlClient | None:
        host = await self.get_host()
        if host is None or host.control is None:
            return None
        return ControlClient(self.get_transport(), host.control)

    async def _start_host(self) -> Endpoint:
        started_at = time.monotonic()
        self._host = EngineHost(self.probes.host_options(self.paths))
        endpoint = await self._host.wait_ready()
        self.start_duration_s = time.monotonic() - started_at
        return endpoint

    async def _run_command(self) -> CommandResults | None:
        program = shutil.which("foundry", path=self.environ.get("PATH", ""))
        if program is None:
            return None
        commands = (["--version"], foundry_command.SERVER_STATUS, foundry_command.SERVICE_STATUS)
        timeout_s = self.probes.command_timeout_s
        version, server, service = await asyncio.gather(
            *(foundry_command.run_command([program, *command], timeout_s) for command in commands)
        )
        return CommandResults(version, server, service)

    async def _query_catalog(self) -> list[Model] | None:
        # Offline, the query takes seconds to fail: it is made only on request, or with an engine
        # that is running anyway.
        control = await self.get_control()
        should_query = self.online or (not self.quick and await self.shared.get() is not None)
        if control is None or not should_query:
            return None
        listing = await control.list_public_models()
        if listing.unreachable is not None:
            raise CatalogUnavailable(listing.unreachable)
        return list(listing.models)


async def run_abandonable(function: Callable[[], _T]) -> _T:
    """Run blocking work in a daemon thread."""
    # Not `asyncio.to_thread`: at exit the loop and the interpreter wait for its threads, so that a
    # check that timed out would still delay the command.
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def set_result(result: _T | None, failure: BaseException | None) -> None:
        if outcome.done():
            return  # the check timed out
        if failure is not None:
            outcome.set_exception(failure)
        else:
            outcome.set_result(cast("_T", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - raised again where the work is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
            loop.call_soon_threadsafe(set_result, result, failure)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await outcome
