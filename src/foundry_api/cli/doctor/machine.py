"""The machine that is examined. What several checks need to see is looked at once."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
import time
from dataclasses import dataclass, field
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

__all__ = ["CommandResults", "DiagnosticContext", "Probes", "run_abandonable"]


_T = TypeVar("_T")

COMMAND_TIMEOUT_S = 5.0
"""A program of .NET that starts cold on a busy machine may take a second or two."""


def _get_disk_free(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _get_memory_available() -> int:
    return psutil.virtual_memory().available


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """How the machine is looked at, where a test has to put something else in.

    Attributes:
        disk_free: Free bytes on the disk of a directory that exists.
        memory_available: Bytes of memory that a program can have without swapping.
        ports: The ports at which services are known to be.
        command_timeout_s: How long Foundry's own command may take.
        host_options: How an engine host is started.
    """

    disk_free: Callable[[Path], int] = _get_disk_free
    memory_available: Callable[[], int] = _get_memory_available
    ports: Sequence[int] = discovery.KNOWN_PORTS
    command_timeout_s: float = COMMAND_TIMEOUT_S
    host_options: Callable[[Paths], HostOptions] = field(
        default=lambda paths: HostOptions(paths=paths)
    )


@dataclass(frozen=True, slots=True)
class CommandResults:
    """What Foundry's own command says."""

    version: foundry_command.CommandResult
    server: foundry_command.CommandResult
    service: foundry_command.CommandResult


class LazyTask(Generic[_T]):
    """Work that is begun when its result is first wanted, and done once for all who want it."""

    def __init__(self, work: Callable[[], Coroutine[None, None, _T]]) -> None:
        self._work = work
        self._task: asyncio.Task[_T] | None = None

    async def get(self) -> _T:
        """Its result, or what it raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return await asyncio.shield(self._task)

    async def aclose(self) -> None:
        """Cancel it, if it is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class DiagnosticContext:
    """What there is to examine.

    Args:
        settings: Those that can be used.
        environ: The environment as it is.
        model: A model that the user wants to use; None for no particular one.
        quick: Start no engine, and leave the remote catalog alone.
        online: Ask the remote catalog even if an engine has to be started for it.
        probes: How to look.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        model: str | None = None,
        quick: bool = False,
        online: bool = False,
        probes: Probes | None = None,
    ) -> None:
        self.settings = settings
        self.environ = environ
        self.model = model
        self.quick = quick
        self.online = online
        self.probes = probes or Probes()
        self.paths = Paths.from_home(settings.home)
        self.starts_engine = online or not (quick or settings.base_url or settings.base_urls)
        self.shared = LazyTask(self._find_shared)
        self.own = LazyTask(self._start_host)
        self.command = LazyTask(self._run_command)
        self.catalog = LazyTask(self._query_catalog)
        self.start_duration_s = 0.0
        self._transport: Transport | None = None
        self._host: EngineHost | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        for once in (self.catalog, self.shared, self.own, self.command):
            await once.aclose()
        if self._host is not None:
            await self._host.aclose()
        if self._transport is not None:
            await self._transport.aclose()

    def get_transport(self) -> Transport:
        """The one transport, made when something has accepted a connection."""
        if self._transport is None:
            from foundry_api.wire.http import HttpTransport  # noqa: PLC0415 - aiohttp takes 0.2 s

            self._transport = HttpTransport(self.settings.connect_timeout_s)
        return self._transport

    async def get_host(self) -> Endpoint | None:
        """An engine host of ours: the shared one, or else the one started for the examination."""
        if endpoint := await self.shared.get():
            return endpoint
        if not self.starts_engine:
            return None
        with contextlib.suppress(FoundryError):  # the engine's own check tells why
            return await self.own.get()
        return None

    async def get_control(self) -> ControlClient | None:
        """The control API of `host`."""
        host = await self.get_host()
        if host is None or host.control is None:
            return None
        return ControlClient(self.get_transport(), host.control)

    async def _find_shared(self) -> Endpoint | None:
        return await discovery.find_shared(self.paths, self.get_transport)

    async def _start_host(self) -> Endpoint:
        began_at = time.monotonic()
        self._host = EngineHost(self.probes.host_options(self.paths))
        endpoint = await self._host.wait_ready()
        self.start_duration_s = time.monotonic() - began_at
        return endpoint

    async def _run_command(self) -> CommandResults | None:
        program = shutil.which("foundry", path=self.environ.get("PATH", ""))
        if program is None:
            return None
        questions = (["--version"], foundry_command.SERVER_STATUS, foundry_command.SERVICE_STATUS)
        bound_s = self.probes.command_timeout_s
        version, server, service = await asyncio.gather(
            *(foundry_command.run_command([program, *question], bound_s) for question in questions)
        )
        return CommandResults(version, server, service)

    async def _query_catalog(self) -> list[Model] | None:
        """The remote catalog, which takes seconds offline; None if nobody wanted it asked."""
        control = await self.get_control()
        should_query = self.online or (not self.quick and await self.shared.get() is not None)
        if control is None or not should_query:
            return None
        listing = await control.list_public_models()
        if listing.unreachable is not None:
            raise CatalogUnavailable(listing.unreachable)
        return list(listing.models)


async def run_abandonable(function: Callable[[], _T]) -> _T:
    """What blocking work returns or raises.

    The thread is a daemon. `asyncio.to_thread` has threads that the loop and the interpreter wait
    for when they end, so that a check that ran out of time would hold the command up after all.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def set_result(result: _T | None, failure: BaseException | None) -> None:
        if outcome.done():
            return  # the check ran out of time
        if failure is not None:
            outcome.set_exception(failure)
        else:
            outcome.set_result(cast("_T", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - it is raised where the work is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(set_result, result, failure)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await outcome
