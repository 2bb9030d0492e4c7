"""When a host counts as idle; the clock is the test's."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from foundry_api.engine.host.lifetime import (
    HostActivity,
    IdleTimer,
    measure_activity,
    wait_until_idle,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NOBODY = HostActivity(connections=0, cpu_s=0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def due(idle: IdleTimer, clock: Clock, looks: Sequence[tuple[float, HostActivity]]) -> list[bool]:
    """Look after so many seconds each."""
    seen: list[bool] = []
    for seconds, usage in looks:
        clock.now += seconds
        seen.append(idle.is_expired(usage))
    return seen


def test_it_is_due_after_the_timeout_without_connections() -> None:
    clock = Clock()
    idle = IdleTimer(60.0, clock)
    assert due(idle, clock, [(30, NOBODY), (29, NOBODY), (1, NOBODY)]) == [False, False, True]


def test_a_connection_starts_the_time_anew() -> None:
    clock = Clock()
    idle = IdleTimer(60.0, clock)
    looks = [(59, HostActivity(1, 0.0)), (59, NOBODY), (1, NOBODY)]
    assert due(idle, clock, looks) == [False, False, True]


def test_work_between_two_looks_starts_the_time_anew() -> None:
    clock = Clock()
    idle = IdleTimer(60.0, clock)
    looks = [(59, HostActivity(0, 9.0)), (59, HostActivity(0, 9.04)), (1, HostActivity(0, 9.04))]
    assert due(idle, clock, looks) == [False, False, True]


def test_no_timeout_is_never_due() -> None:
    clock = Clock()
    assert due(IdleTimer(0.0, clock), clock, [(1e9, NOBODY)]) == [False]


def test_looks_are_rare_and_fine_enough() -> None:
    assert [IdleTimer(timeout_s).poll_s for timeout_s in (0.1, 2, 20, 1800)] == [0.05, 0.5, 5, 5]


async def test_a_host_waits_until_it_is_idle() -> None:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    await wait_until_idle(IdleTimer(60.0, clock), lambda: NOBODY, sleep)
    assert clock.now == 1060.0


def test_connections_are_counted_on_the_hosts_own_ports() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(listener.getsockname()),
        socket.create_connection(other.getsockname()),
    ):
        accepted = [server.accept()[0] for server in (listener, other)]
        assert measure_activity([listener.getsockname()[1]]).connections == 1
        for connection in accepted:
            connection.close()
