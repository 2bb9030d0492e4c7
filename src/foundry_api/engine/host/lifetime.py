"""Decides when a host exits: with its owner, or after a time without use."""

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

# More CPU time than this between two measurements means that the host worked: a measurement itself
# costs a few milliseconds. Nothing else shows a request that begins and ends between two of them.
WORK_CPU_S = 0.05


def exit_with_owner(pid: int, exit_process: Callable[[], None]) -> None:
    """Call `exit_process`, from a thread, when the owner's process is gone."""
    # The host also watches the end of its standard input, but a process that the owner forked may
    # keep that pipe open.

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            owner = psutil.Process(pid)
            while is_alive(owner):
                time.sleep(OWNER_POLL_S)
        exit_process()

    threading.Thread(target=watch, name="exit-with-owner", daemon=True).start()


@dataclass(frozen=True, slots=True)
class HostActivity:
    """Established connections to a host, and the CPU time that it has used so far."""

    connections: int
    cpu_s: float


def measure_activity(ports: Iterable[int]) -> HostActivity:
    """Measure the activity of this process.

    Connections that the system does not list count as one, because the host may be in use.
    """
    process = psutil.Process()
    used = process.cpu_times()
    watched = frozenset(ports)
    try:
        # psutil's type stubs do not know that `laddr` may be an empty tuple.
        connections: list[Any] = process.net_connections("tcp")
    except (psutil.Error, OSError, RuntimeError):
        # On Windows, psutil raises a bare RuntimeError if its table of connections grows while it
        # is read (https://github.com/giampaolo/psutil/issues/1294).
        return HostActivity(1, used.user + used.system)
    established = [
        connection
        for connection in connections
        if connection.status == psutil.CONN_ESTABLISHED
        and connection.laddr
        and connection.laddr.port in watched
    ]
    return HostActivity(len(established), used.user + used.system)


@dataclass(slots=True)
class IdleTimer:
    """Measures how long a host has been idle. A `timeout_s` of 0 means that it never expires."""

    timeout_s: float
    monotonic: Callable[[], float] = time.monotonic
    _used_at: float = field(init=False)
    _cpu_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._used_at = self.monotonic()

    @property
    def poll_s(self) -> float:
        """Seconds to wait between two measurements."""
        return min(5.0, max(0.05, self.timeout_s / 4))

    def is_expired(self, activity: HostActivity) -> bool:
        """Record a measurement and return whether the host has been idle for too long."""
        measured_at = self.monotonic()
        worked = activity.cpu_s - self._cpu_s > WORK_CPU_S
        self._cpu_s = activity.cpu_s
        if activity.connections or worked:
            self._used_at = measured_at
        return self.timeout_s > 0 and measured_at - self._used_at >= self.timeout_s


async def wait_until_ended(
    has_ended: Callable[[], bool], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    # Any client can shut an engine down over its port, and the SDK has no callback for that.
    while not await asyncio.to_thread(has_ended):
        await sleep(ENDED_POLL_S)


async def wait_until_idle(
    timer: IdleTimer,
    measure: Callable[[], HostActivity],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    while not timer.is_expired(await asyncio.to_thread(measure)):
        await sleep(timer.poll_s)
