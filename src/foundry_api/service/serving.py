"""What a host does once it has announced itself: the control API, and watching for its end.

Apart from `host`, because asyncio, aiohttp and psutil take a quarter of a second to import, which
an announcement must not wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, NoReturn

from aiohttp import web

from foundry_api.service import host_log
from foundry_api.service.control_api import ControlAPI
from foundry_api.service.lifetime import (
    IdleClock,
    leave_with_owner,
    until,
    until_idle,
    usage_of_self,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from foundry_api.service.engine import NativeEngine
    from foundry_api.service.handshake import HostFacts

__all__ = ["serve"]


def serve(
    engine: NativeEngine,
    listener: socket.socket,
    token: str,
    facts: HostFacts,
    leave: Callable[[int], NoReturn],
) -> NoReturn:
    """Serve the control API until there is a reason to leave, and leave.

    Args:
        engine: Does the work.
        listener: The control API's socket, listening already.
        token: The bearer token to ask for.
        facts: What the host tells of itself.
        leave: Ends the process at once, with an exit status.
    """
    if facts.owner_pid is not None:
        leave_with_owner(facts.owner_pid, lambda: leave(0))
    api = ControlAPI(engine, token, facts, lambda: leave(0))
    asyncio.run(_serve(api, engine, listener, facts, leave))
    leave(1)


async def _serve(
    api: ControlAPI,
    engine: NativeEngine,
    listener: socket.socket,
    facts: HostFacts,
    leave: Callable[[int], NoReturn],
) -> NoReturn:
    with contextlib.suppress(NotImplementedError):  # Windows ends processes without a signal
        # A signal may arrive in a thread of the engine's; the loop's handler wakes this one.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave, 0)
    runner = web.AppRunner(api.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    ends = {asyncio.create_task(_engine_end(engine))}
    if facts.idle_timeout_s:
        ports = (listener.getsockname()[1], int(engine.url.rpartition(":")[2]))
        ends.add(asyncio.create_task(_idle_end(facts.idle_timeout_s, ports)))
    done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    host_log.note(done.pop().result())
    leave(0)  # from here, as the loop's own end would wait for downloads in its threads


async def _engine_end(engine: NativeEngine) -> str:
    await until(lambda: engine.ended)
    return "the engine was shut down"


async def _idle_end(timeout_s: float, ports: tuple[int, ...]) -> str:
    await until_idle(IdleClock(timeout_s), lambda: usage_of_self(ports))
    return f"nobody used this host for {timeout_s:g} s"
