"""Several runners of a batch: who answers which lines, and when others take them over."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support.journal_factories import Clock, opened, options_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foundry_api.batch.journal import Journal
    from foundry_api.batch.types import BatchOptions

LEASE_S = 60.0


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    return options_of(tmp_path)


@contextmanager
def two(options: BatchOptions, **of_the_second: Any) -> Iterator[tuple[Journal, Journal]]:
    """Two runners that share a batch."""
    with (
        opened(options, shared=True, wall_clock=of_the_second.pop("first_clock", Clock())) as one,
        opened(options, shared=True, lease_s=LEASE_S, **of_the_second) as other,
    ):
        yield one, other


def test_a_block_is_one_runners(options: BatchOptions) -> None:
    with two(options) as (one, other):
        assert one.claim(0)
        assert not other.claim(0)
        assert other.claim(1)
        assert not one.claim(1)
        assert one.claim(0), "it stays its own"


def test_who_leaves_leaves_its_blocks(options: BatchOptions) -> None:
    with opened(options, shared=True) as other:
        with opened(options, shared=True) as one:
            assert one.claim(0)
            assert not other.claim(0)
        assert other.claim(0)


def test_a_dead_runner_is_not_waited_for(options: BatchOptions) -> None:
    ticks = Clock()
    with (
        opened(options, shared=True) as one,
        opened(options, shared=True, monotonic=ticks) as other,
    ):
        assert one.claim(0)
        one._runner._lock.__exit__()  # as the system does it
        assert other.claim(0)
        one._runner._lock.__enter__()


def test_a_runner_without_a_sign_loses_its_blocks_when_the_lease_is_over(
    options: BatchOptions,
) -> None:
    ticks = Clock()
    with two(options, monotonic=ticks) as (one, other):
        assert one.claim(0)
        assert not other.claim(0)
        ticks.now += LEASE_S - 1
        assert not other.claim(0)
        ticks.now += 1
        assert other.claim(0)
        assert not one.claim(0)


def test_a_sign_renews_the_lease(options: BatchOptions) -> None:
    clock, ticks = Clock(), Clock()
    with two(options, first_clock=clock, monotonic=ticks) as (one, other):
        assert one.claim(0)
        for _ in range(3):
            assert not other.claim(0)
            ticks.now += LEASE_S - 1
            clock.now += LEASE_S - 1
            one.heartbeat()
        assert not other.claim(0)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0, -0.001])
def test_a_clock_that_jumps_neither_ends_a_lease_nor_renews_it(
    jump_s: float, options: BatchOptions
) -> None:
    clock, ticks = Clock(), Clock()
    with two(options, first_clock=clock, monotonic=ticks, wall_clock=clock) as (one, other):
        assert one.claim(0)
        assert not other.claim(0)
        clock.now += jump_s
        one.heartbeat()
        ticks.now += LEASE_S - 1
        assert not other.claim(0), "it gave a sign, whatever the time is"
        clock.now += jump_s
        ticks.now += LEASE_S
        assert other.claim(0), "the clock alone is no sign"


def test_who_shares_nothing_need_not_ask(options: BatchOptions) -> None:
    with opened(options) as alone:
        assert alone.claim(0)
        with closing(sqlite3.connect(options.directory / "journal.sqlite")) as database:
            assert database.execute("select * from claim").fetchall() == []


def test_looking_whether_a_runner_lives_does_not_make_it_look_alive(options: BatchOptions) -> None:
    """Two who look at the same moment must not take each other for the dead one."""
    from foundry_api.storage.lock import FileLock, is_held  # noqa: PLC0415 - of this test alone

    options.directory.mkdir()
    path = options.directory / "runner-1.lock"
    assert not is_held(path)
    assert not path.exists(), "it is not made by a look"
    with FileLock(path, timeout_s=0):
        assert is_held(path)
    assert not is_held(path)
