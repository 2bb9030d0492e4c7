"""When a host leaves: with its parent, or after nobody used it for a while."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from foundry_api.engine.state import is_alive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = [
    "HostActivity",
    "IdleTimer",
    "exit_with_owner",
    "measure_activity",
    "wait_until_ended",
    "wait_until_idle",
]

OWNER_POLL_S = 1.0
ENDED_POLL_S = 0.5
WORK_CPU_S = 0.05
"""Processor time between two looks that only work explains: a look itself costs a few milliseconds.

Requests that come and go between two looks show in nothing else.
"""


def exit_with_owner(pid: int, exit_process: Callable[[], None]) -> None:
    """Leave when the owner's process is gone.

    The second line of defence behind the end of standard input: a process that the owner forked
    may hold the pipe open after it.
    """

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            owner = psutil.Process(pid)
            while is_alive(owner):
                time.sleep(OWNER_POLL_S)
        exit_process()

    threading.Thread(target=watch, name="leave-with-owner", daemon=True).start()


@dataclass(frozen=True, slots=True)
class HostActivity:
    """What shows that somebody uses a host.

    Attributes:
        connections: Established connections on its ports.
        cpu_s: Processor seconds that it has used so far.
    """

    connections: int
    cpu_s: float


def measure_activity(ports: Iterable[int]) -> HostActivity:
    """How this process is being used."""
    process = psutil.Process()
    watched = frozenset(ports)
    established = [
        connection
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and _get_local_port(connection) in watched
    ]
    spent = process.cpu_times()
    return HostActivity(len(established), spent.user + spent.system)


def _get_local_port(connection: Any) -> int | None:
    """The port; psutil has an empty tuple where there is no address."""
    return connection.laddr.port if connection.laddr else None


@dataclass(slots=True)
class IdleTimer:
    """How long nobody used a host.

    Attributes:
        timeout_s: Idle seconds after which the host is due to leave; 0 never.
        monotonic: Seconds of a clock that never goes back.
    """

    timeout_s: float
    monotonic: Callable[[], float] = time.monotonic
    _used_at: float = field(init=False)
    _cpu_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """A host counts as used when it starts."""
        self._used_at = self.monotonic()

    @property
    def poll_s(self) -> float:
        """How long to wait between looks: fine enough for the time-out, and rare."""
        return min(5.0, max(0.05, self.timeout_s / 4))

    def is_expired(self, activity: HostActivity) -> bool:
        """Take notice of a look; whether the host has been idle for too long."""
        current = self.monotonic()
        worked = activity.cpu_s - self._cpu_s > WORK_CPU_S
        self._cpu_s = activity.cpu_s
        if activity.connections or worked:
            self._used_at = current
        return self.timeout_s > 0 and current - self._used_at >= self.timeout_s


async def wait_until_ended(
    has_ended: Callable[[], bool], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Return when something has ended that nobody tells of. Anybody may shut an engine down."""
    while not await asyncio.to_thread(has_ended):
        await sleep(ENDED_POLL_S)


async def wait_until_idle(
    timer: IdleTimer,
    measure: Callable[[], HostActivity],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return when a host has been idle for too long."""
    while not timer.is_expired(await asyncio.to_thread(measure)):
        await sleep(timer.poll_s)
