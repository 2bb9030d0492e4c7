"""The engine host: the child process in which the native engine runs.

`foundry_api.service.process` starts it with its `HostConfig` as the only argument. It writes one
line to its standard output, an `Announcement` or a `Refusal`, and everything else to its log.

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
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import msgspec

from foundry_api.errors import FoundryError, ServiceStartFailed
from foundry_api.service.engine import NativeEngine
from foundry_api.service.handshake import Announcement, HostConfig, Refusal, generation_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from foundry_api.service.handshake import Answer, ModelSource

__all__ = ["main"]

BACKLOG = 128


def main() -> NoReturn:
    """Run a host until it has to leave."""
    parent = _take_standard_output()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent
    host = Host(msgspec.json.decode(sys.argv[1], type=HostConfig))
    try:
        announcement = host.start()
    except ServiceStartFailed as error:
        _tell(parent, Refusal(message=error.message, hint=error.hint or None))
        host.leave(1)
    _tell(parent, announcement)
    asyncio.run(host.serve())
    host.leave(1)


class Host:
    """One engine, its control API and its end."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._token = secrets.token_urlsafe(32)
        self._started_at = time.time()
        self._problems: tuple[str, ...] = ()
        self._engine: NativeEngine

    def start(self) -> Announcement:
        """Start the engine and register the models.

        Raises:
            ServiceStartFailed: The engine does not come up.
        """
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.leave(0))
        if self._config.owner_pid is not None:
            _leave_with_stdin(self)
        self._engine = NativeEngine.start(self._config)
        self._problems = tuple(self._register(self._config.models))
        announcement = self._announcement()
        if self._config.state_path is not None:
            announcement = self._publish(announcement, self._config.state_path)
        return announcement

    async def serve(self) -> None:
        """Serve the control API for ever."""
        from aiohttp import web  # noqa: PLC0415 - 190 ms, which the announcement must not wait for

        from foundry_api.service.control_api import ControlAPI, HostFacts  # noqa: PLC0415 - aiohttp

        facts = HostFacts(
            url=self._engine.url,
            sdk_version=self._engine.version,
            log_path=self._config.log_path,
            started_at=self._started_at,
            owner_pid=self._config.owner_pid,
            idle_timeout_s=self._config.idle_timeout_s,
            problems=self._problems,
        )
        app = ControlAPI(self._engine, self._token, facts, lambda: self.leave(0)).app()
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.SockSite(runner, self._listener).start()
        await self._watch()

    def leave(self, code: int) -> NoReturn:
        """End the process at once."""
        if self._config.state_path is not None:
            _unpublish(self._config.state_path)
        sys.stderr.flush()
        os._exit(code)

    async def _watch(self) -> None:
        """Wait for the reason to leave."""
        import psutil  # noqa: PLC0415 - not before the announcement

        from foundry_api.service.lifetime import (  # noqa: PLC0415 - psutil
            IdleClock,
            leave_with_owner,
            until_idle,
            usage_of_self,
        )

        if (owner_pid := self._config.owner_pid) is not None:
            try:
                leave_with_owner(psutil.Process(owner_pid), lambda: self.leave(0))
            except psutil.NoSuchProcess:
                self.leave(0)
        if not self._config.idle_timeout_s:
            await asyncio.Event().wait()
        idle = IdleClock(self._config.idle_timeout_s)
        ports = (self._listener.getsockname()[1], int(self._engine.url.rpartition(":")[2]))
        await until_idle(idle, lambda: usage_of_self(ports))
        _log(f"nobody used this host for {self._config.idle_timeout_s:g} s")
        self.leave(0)

    def _register(self, sources: Iterable[ModelSource]) -> Iterable[str]:
        """Register models; those that cannot be are told of instead of stopping the others."""
        for source in sources:
            try:
                self._engine.ensure(source)
            except FoundryError as error:
                _log(f"{source.alias}: {error}")
                yield f"{source.alias}: {error.message}"

    def _announcement(self) -> Announcement:
        return Announcement(
            url=self._engine.url,
            pid=os.getpid(),
            control_url=f"http://127.0.0.1:{self._listener.getsockname()[1]}",
            token=self._token,
            generation=generation_of(self._engine.version),
            sdk_version=self._engine.version,
            log_path=self._config.log_path,
            started_at=self._started_at,
        )

    def _publish(self, announcement: Announcement, path: str) -> Announcement:
        from foundry_api.service import state  # noqa: PLC0415 - psutil, which private hosts defer

        announcement = msgspec.structs.replace(announcement, create_time=state.own_create_time())
        state.write(path, announcement)
        return announcement


def _unpublish(path: str) -> None:
    from foundry_api.service import state  # noqa: PLC0415 - psutil, which private hosts defer

    state.remove(path, pid=os.getpid())


def _leave_with_stdin(host: Host) -> None:
    """Leave at the end of standard input, which comes when the parent goes, however it goes."""

    def wait() -> None:
        while os.read(0, 4096):
            continue  # nobody sends anything; only the end matters
        host.leave(0)

    threading.Thread(target=wait, name="leave-with-stdin", daemon=True).start()


def _take_standard_output() -> BinaryIO:
    """The stream to the parent; what anything else prints from now on goes to the log."""
    parent = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return parent


def _tell(parent: BinaryIO, answer: Answer) -> None:
    """Announce. A parent that is gone already is no failure: a shared host has left its state."""
    with contextlib.suppress(BrokenPipeError), parent:
        parent.write(msgspec.json.encode(answer) + b"\n")


def _log(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}", file=sys.stderr)  # noqa: T201 - the log


if __name__ == "__main__":
    main()
