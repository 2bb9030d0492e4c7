"""The engine host: the child process that runs the native engine.

`foundry_api.engine.process` starts it with a `HostConfig` as its only argument. It writes one line
to its standard output, a `HostReady` or a `HostStartError`, and everything else to its log.
"""

# The order of a start keeps the time to the caller's first token short: the engine, the control
# API's socket, the ready message, and only then the imports of the control API (250 ms). Requests
# that arrive before that wait in the socket's backlog.

from __future__ import annotations

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

from foundry_api._version import __version__
from foundry_api.engine.control_messages import HostInfo
from foundry_api.engine.handshake import (
    HostConfig,
    HostReady,
    HostStartError,
    get_service_generation,
)
from foundry_api.engine.host import log
from foundry_api.engine.host.native import NativeEngine
from foundry_api.engine.models.registry_file import RELATIVE_PATH, check_readable, make_damage_error
from foundry_api.types.errors import ConfigurationError, FoundryError, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from foundry_api.engine.handshake import HostStartResult, ModelSource

__all__ = ["main"]

BACKLOG = 128
FIRST_REQUEST_S = 2.0


def main() -> NoReturn:
    """Run a host until it has to exit."""
    # Keeps standard output for the parent. What the engine prints from now on goes to the log.
    parent = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent
    host = Host(msgspec.json.decode(sys.argv[1], type=HostConfig))
    try:
        ready = host.start()
    except ServiceStartFailed as error:
        _send(parent, HostStartError(message=error.message, hint=error.hint or None))
        host.exit_process(1)
    _send(parent, ready)
    host.serve()


class Host:
    """One engine with its control API."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._token = secrets.token_urlsafe(32)
        self._started_at = 0.0
        self._problems: tuple[str, ...] = ()
        self._engine: NativeEngine

    def start(self) -> HostReady:
        """Start the engine and register the models; raises ServiceStartFailed."""
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.exit_process(0))
        if self._config.owner_pid is not None:
            threading.Thread(
                target=self._exit_with_stdin, name="exit-with-stdin", daemon=True
            ).start()
        try:
            check_readable(Path(self._config.data_dir))
        except ConfigurationError as error:
            raise ServiceStartFailed(error.message, hint=error.hint) from error
        self._engine = NativeEngine.start(self._config)
        self._problems = tuple(self._register(self._config.models))
        self._engine.registry.update_tuned()
        self._started_at = time.time()
        ready = HostReady(
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
        if self._config.state_path is None:
            return ready
        from foundry_api.engine import state  # noqa: PLC0415 - psutil, which private hosts defer

        ready = msgspec.structs.replace(ready, create_time=state.get_own_create_time())
        state.write_state(self._config.state_path, ready)
        return ready

    def serve(self) -> NoReturn:
        """Serve the control API until there is a reason to exit."""
        # Its imports would take a core from the caller, which now imports its HTTP library and
        # then waits for its first answer. Most callers never use the control API.
        select.select([self._listener], [], [], FIRST_REQUEST_S)
        from foundry_api.engine.host import serving  # noqa: PLC0415 - 250 ms of imports, see above

        serving.serve(
            self._engine,
            self._listener,
            self._token,
            get_info=self.get_info,
            exit_process=self.exit_process,
        )

    def get_info(self) -> HostInfo:
        return HostInfo(
            pid=os.getpid(),
            url=self._engine.url,
            uptime_s=time.time() - self._started_at,
            sdk_version=self._engine.version,
            log_path=self._config.log_path,
            owner_pid=self._config.owner_pid,
            idle_timeout_s=self._config.idle_timeout_s,
            problems=self._problems,
            catalog_url=self._config.catalog_url,
        )

    def exit_process(self, code: int) -> NoReturn:
        """Exit at once: there is nothing to save, and the engine's own shutdown takes 2 s."""
        if self._config.state_path is not None:
            from foundry_api.engine import state  # noqa: PLC0415 - psutil, as in start()

            state.remove_state(self._config.state_path, pid=os.getpid())
        sys.stderr.flush()
        os._exit(code)

    def _exit_with_stdin(self) -> None:
        # Standard input ends when the parent exits, even if it was killed.
        while os.read(0, 4096):
            continue  # the parent sends nothing; only the end counts
        self.exit_process(0)

    def _register(self, sources: Iterable[ModelSource]) -> Iterable[str]:
        """Register models and yield a problem for each that cannot be registered."""
        for source in sources:
            try:
                self._engine.registry.ensure_registered(source)
            except ConfigurationError as error:
                # The engine refuses its own list of models, so it can serve none of them.
                log.write_line(str(error))
                path = Path(self._config.data_dir) / RELATIVE_PATH
                damage = make_damage_error(path, "the engine does not know its format")
                raise ServiceStartFailed(damage.message, hint=damage.hint) from error
            except FoundryError as error:
                # One bad model must not keep the others from being served.
                log.write_line(f"{source.alias}: {error}")
                yield f"{source.alias}: {error.message}"


def _send(parent: BinaryIO, result: HostStartResult) -> None:
    # A shared host continues if its parent is gone already: clients find it by its state file.
    with contextlib.suppress(BrokenPipeError), parent:
        parent.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    main()
