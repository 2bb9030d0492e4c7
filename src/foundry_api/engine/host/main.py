"""The engine host: the child process in which the native engine runs.

`foundry_api.engine.process` starts it with its `HostConfig` as the only argument. It writes one
line to its standard output, an `HostReady` or a `HostStartError`, and everything else to its log.

A start is a matter of milliseconds to the caller's first token, so the order is: engine, the
control API's socket, announcement, and only then the imports that the control API needs. Requests
that come meanwhile wait in the socket's backlog.

Nothing has to be saved when a host leaves, and the engine's own tear-down takes two seconds, so
it leaves by `os._exit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
from aiohttp import web

from foundry_api._version import __version__
from foundry_api.engine.host import log
from foundry_api.engine.host.control_api import ControlAPI
from foundry_api.engine.host.lifetime import (
    IdleTimer,
    exit_with_owner,
    measure_activity,
    wait_until_ended,
    wait_until_idle,
)
from foundry_api.engine.host.native import NativeEngine
from foundry_api.engine.models.registry_file import RELATIVE_PATH, check_readable, make_damage_error
from foundry_api.engine.state import (
    HostConfig,
    HostDetails,
    HostReady,
    HostStartError,
    get_service_generation,
)
from foundry_api.types.errors import ConfigurationError, FoundryError, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import BinaryIO

    from foundry_api.engine.state import HostStartResult, ModelSource

__all__ = ["main", "serve"]


BACKLOG = 128
FIRST_RESPONSE_S = 2.0


def main() -> NoReturn:
    """Run a host until it has to leave."""
    parent = _capture_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent
    host = Host(msgspec.json.decode(sys.argv[1], type=HostConfig))
    try:
        announcement = host.start()
    except ServiceStartFailed as error:
        _send_ready(parent, HostStartError(message=error.message, hint=error.hint or None))
        host.exit_process(1)
    _send_ready(parent, announcement)
    host.serve()


class Host:
    """One engine, its control API and its end."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._token = secrets.token_urlsafe(32)
        self._started_at = 0.0
        self._problems: tuple[str, ...] = ()
        self._engine: NativeEngine

    def start(self) -> HostReady:
        """Start the engine and register the models.

        Raises:
            ServiceStartFailed: The engine does not come up.
        """
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.exit_process(0))
        if self._config.owner_pid is not None:
            _exit_when_stdin_closes(self)
        try:
            check_readable(Path(self._config.data_dir))
        except ConfigurationError as error:
            raise ServiceStartFailed(error.message, hint=error.hint) from error
        self._engine = NativeEngine.start(self._config)
        self._problems = tuple(self._register(self._config.models))
        self._started_at = time.time()
        announcement = self._make_ready()
        if self._config.state_path is not None:
            announcement = self._write_state(announcement, self._config.state_path)
        return announcement

    def serve(self) -> NoReturn:
        """Serve the control API until there is a reason to leave."""
        # Its imports would take a core from the caller, who now imports his HTTP library and then
        # has his first answer computed. Most callers never use the control API.
        select.select([self._listener], [], [], FIRST_RESPONSE_S)

        facts = HostDetails(
            url=self._engine.url,
            sdk_version=self._engine.version,
            log_path=self._config.log_path,
            started_at=self._started_at,
            owner_pid=self._config.owner_pid,
            idle_timeout_s=self._config.idle_timeout_s,
            problems=self._problems,
            catalog_url=self._config.catalog_url,
        )
        serve(self._engine, self._listener, self._token, facts, self.exit_process)

    def exit_process(self, code: int) -> NoReturn:
        """End the process at once."""
        if self._config.state_path is not None:
            _remove_state(self._config.state_path)
        sys.stderr.flush()
        os._exit(code)

    def _register(self, sources: Iterable[ModelSource]) -> Iterable[str]:
        """Register models; those that cannot be are told of instead of stopping the others.

        Raises:
            ServiceStartFailed: The list of registered models is damaged.
        """
        for source in sources:
            try:
                self._engine.registry.ensure_registered(source)
            except ConfigurationError as error:  # no model at all can be used
                log.write_line(str(error))
                path = Path(self._config.data_dir) / RELATIVE_PATH
                damage = make_damage_error(path, "the engine does not know its form")
                raise ServiceStartFailed(damage.message, hint=damage.hint) from error
            except FoundryError as error:
                log.write_line(f"{source.alias}: {error}")
                yield f"{source.alias}: {error.message}"

    def _make_ready(self) -> HostReady:
        return HostReady(
            url=self._engine.url,
            pid=os.getpid(),
            control_url=f"http://127.0.0.1:{self._listener.getsockname()[1]}",
            token=self._token,
            service_generation=get_service_generation(self._engine.version),
            sdk_version=self._engine.version,
            log_path=self._config.log_path,
            started_at=self._started_at,
            package_version=__version__,
        )

    def _write_state(self, announcement: HostReady, path: str) -> HostReady:
        from foundry_api.engine import state  # noqa: PLC0415 - psutil, which private hosts defer

        announcement = msgspec.structs.replace(
            announcement, create_time=state.get_own_create_time()
        )
        state.write_state(path, announcement)
        return announcement


def _remove_state(path: str) -> None:
    from foundry_api.engine import state  # noqa: PLC0415 - psutil, which private hosts defer

    state.remove_state(path, pid=os.getpid())


def _exit_when_stdin_closes(host: Host) -> None:
    """Leave at the end of standard input, which comes when the parent goes, however it goes."""

    def wait() -> None:
        while os.read(0, 4096):
            continue  # nobody sends anything; only the end matters
        host.exit_process(0)

    threading.Thread(target=wait, name="leave-with-stdin", daemon=True).start()


def _capture_stdout() -> BinaryIO:
    """The stream to the parent; what anything else prints from now on goes to the log."""
    parent = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return parent


def _send_ready(parent: BinaryIO, result: HostStartResult) -> None:
    """Announce. A parent that is gone already is no failure: a shared host has left its state."""
    with contextlib.suppress(BrokenPipeError), parent:
        parent.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()


def serve(
    engine: NativeEngine,
    listener: socket.socket,
    token: str,
    info: HostDetails,
    exit_process: Callable[[int], NoReturn],
) -> NoReturn:
    """Serve the control API until there is a reason to leave, and leave.

    Args:
        engine: Does the work.
        listener: The control API's socket, listening already.
        token: The bearer token to ask for.
        info: What the host tells of itself.
        exit_process: Ends the process at once, with an exit status.
    """
    if info.owner_pid is not None:
        exit_with_owner(info.owner_pid, lambda: exit_process(0))
    api = ControlAPI(engine, token, info, lambda: exit_process(0))
    asyncio.run(_serve(api, engine, listener, info, exit_process))
    exit_process(1)


async def _serve(
    api: ControlAPI,
    engine: NativeEngine,
    listener: socket.socket,
    info: HostDetails,
    exit_process: Callable[[int], NoReturn],
) -> NoReturn:
    with contextlib.suppress(NotImplementedError):  # Windows ends processes without a signal
        # A signal may arrive in a thread of the engine's; the loop's handler wakes this one.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, exit_process, 0)
    runner = web.AppRunner(api.make_app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    watchers = {asyncio.create_task(_watch_engine(engine))}
    if info.idle_timeout_s:
        ports = (listener.getsockname()[1], int(engine.url.rpartition(":")[2]))
        watchers.add(asyncio.create_task(_watch_idle(info.idle_timeout_s, ports)))
    done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
    log.write_line(done.pop().result())
    exit_process(0)  # from here, as the loop's own end would wait for downloads in its threads


async def _watch_engine(engine: NativeEngine) -> str:
    await wait_until_ended(lambda: engine.has_ended)
    return "the engine was shut down"


async def _watch_idle(timeout_s: float, ports: tuple[int, ...]) -> str:
    await wait_until_idle(IdleTimer(timeout_s), lambda: measure_activity(ports))
    return f"nobody used this host for {timeout_s:g} s"
