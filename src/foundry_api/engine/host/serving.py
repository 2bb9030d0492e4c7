"""Serves the control API of a host and ends the host when it is no longer needed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, NoReturn

from aiohttp import web

from foundry_api.engine.host import log
from foundry_api.engine.host.control_api import ControlAPI
from foundry_api.engine.host.lifetime import (
    IdleTimer,
    exit_with_owner,
    measure_activity,
    wait_until_ended,
    wait_until_idle,
)
from foundry_api.wire.listening import listen

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from foundry_api.engine.control_messages import HostInfo
    from foundry_api.engine.host.native import NativeEngine

__all__ = ["serve"]


def serve(
    engine: NativeEngine,
    listener: socket.socket,
    token: str,
    *,
    get_info: Callable[[], HostInfo],
    exit_process: Callable[[int], NoReturn],
) -> NoReturn:
    """Serve the control API on a listening socket until there is a reason to exit, then exit."""
    info = get_info()
    if info.owner_pid is not None:
        exit_with_owner(info.owner_pid, lambda: exit_process(0))
    api = ControlAPI(engine, token, get_info, lambda: exit_process(0))
    asyncio.run(_serve(api, engine, listener, info.idle_timeout_s, exit_process))
    exit_process(1)


async def _serve(
    api: ControlAPI,
    engine: NativeEngine,
    listener: socket.socket,
    idle_timeout_s: float,
    exit_process: Callable[[int], NoReturn],
) -> NoReturn:
    with contextlib.suppress(NotImplementedError):  # Windows ends processes without a signal
        # A signal may arrive in a thread of the engine's; the loop's handler wakes this one.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, exit_process, 0)
    runner = web.AppRunner(api.make_app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - `setup` made it
    port = (await listen(runner.server, sock=listener)).port

    async def watch_engine() -> str:
        await wait_until_ended(lambda: engine.has_ended)
        return "the engine was shut down"

    async def watch_use() -> str:
        ports = (port, int(engine.url.rpartition(":")[2]))
        await wait_until_idle(IdleTimer(idle_timeout_s), lambda: measure_activity(ports))
        return f"the host was not used for {idle_timeout_s:g} s"

    watchers = {asyncio.create_task(watch_engine())}
    if idle_timeout_s:
        watchers.add(asyncio.create_task(watch_use()))
    done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
    log.write_line(done.pop().result())
    # asyncio.run would wait for downloads, which run in threads, so the process exits from here.
    exit_process(0)
