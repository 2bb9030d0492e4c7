"""When a host counts as idle, on a simulated clock."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NoReturn

import psutil
import pytest

from foundry_api.engine.host.lifetime import (
    HostActivity,
    IdleTimer,
    measure_activity,
    wait_until_idle,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

IDLE = HostActivity(connections=0, cpu_s=0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def measure(
    timer: IdleTimer, clock: Clock, measurements: Sequence[tuple[float, HostActivity]]
) -> list[bool]:
    """Measure after each number of seconds, and return whether the timer has expired."""
    expired: list[bool] = []
    for seconds, activity in measurements:
        clock.now += seconds
        expired.append(timer.is_expired(activity))
    return expired


def test_the_timer_expires_after_the_timeout() -> None:
    clock = Clock()
    timer = IdleTimer(60.0, clock)
    assert measure(timer, clock, [(30, IDLE), (29, IDLE), (1, IDLE)]) == [False, False, True]


def test_a_connection_restarts_the_timer() -> None:
    clock = Clock()
    timer = IdleTimer(60.0, clock)
    measurements = [(59, HostActivity(1, 0.0)), (59, IDLE), (1, IDLE)]
    assert measure(timer, clock, measurements) == [False, False, True]


def test_work_between_two_measurements_restarts_the_timer() -> None:
    clock = Clock()
    timer = IdleTimer(60.0, clock)
    measurements = [
        (59, HostActivity(0, 9.0)),
        (59, HostActivity(0, 9.04)),
        (1, HostActivity(0, 9.04)),
    ]
    assert measure(timer, clock, measurements) == [False, False, True]


def test_a_timeout_of_0_never_expires() -> None:
    clock = Clock()
    assert measure(IdleTimer(0.0, clock), clock, [(1e9, IDLE)]) == [False]


def test_the_poll_interval_depends_on_the_timeout() -> None:
    assert [IdleTimer(timeout_s).poll_s for timeout_s in (0.1, 2, 20, 1800)] == [0.05, 0.5, 5, 5]


async def test_a_host_waits_until_it_is_idle() -> None:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    await wait_until_idle(IdleTimer(60.0, clock), lambda: IDLE, sleep)
    assert clock.now == 1060.0


def test_only_connections_to_the_given_ports_are_counted() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(listener.getsockname()),
        socket.create_connection(other.getsockname()),
        listener.accept()[0],
        other.accept()[0],
    ):
        assert measure_activity([listener.getsockname()[1]]).connections == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("the table grew"), psutil.AccessDenied(), OSError()]
)
def test_a_host_whose_connections_are_unknown_counts_as_used(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(psutil.Process, "net_connections", fail)
    assert measure_activity([1]).connections == 1
