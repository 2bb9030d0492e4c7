"""Claims: which runner processes which lines, and when others take them over."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support.journal_factories import Clock, make_options, open_journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from foundry_api.batch.journal import Journal
    from foundry_api.batch.types import BatchOptions

LEASE_S = 60.0


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    return make_options(tmp_path)


@contextmanager
def two(options: BatchOptions, **second_options: Any) -> Iterator[tuple[Journal, Journal]]:
    """Two runners that share a batch."""
    with (
        open_journal(
            options, shared=True, wall_clock=second_options.pop("first_clock", Clock())
        ) as one,
        open_journal(options, shared=True, lease_s=LEASE_S, **second_options) as other,
    ):
        yield one, other


def test_a_block_belongs_to_one_runner(options: BatchOptions) -> None:
    with two(options) as (one, other):
        assert one.claim(0)
        assert not other.claim(0)
        assert other.claim(1)
        assert not one.claim(1)
        assert one.claim(0), "its own claim stays"


def test_closing_frees_the_blocks(options: BatchOptions) -> None:
    with open_journal(options, shared=True) as other:
        with open_journal(options, shared=True) as one:
            assert one.claim(0)
            assert not other.claim(0)
        assert other.claim(0)


def test_a_dead_runner_loses_its_blocks_at_once(options: BatchOptions) -> None:
    monotonic = Clock()
    with (
        open_journal(options, shared=True) as one,
        open_journal(options, shared=True, monotonic=monotonic) as other,
    ):
        assert one.claim(0)
        one._runner._lock.__exit__()  # as the system does when it dies
        assert other.claim(0)
        one._runner._lock.__enter__()


def test_a_silent_runner_loses_its_blocks_after_the_lease(
    options: BatchOptions,
) -> None:
    monotonic = Clock()
    with two(options, monotonic=monotonic) as (one, other):
        assert one.claim(0)
        assert not other.claim(0)
        monotonic.now += LEASE_S - 1
        assert not other.claim(0)
        monotonic.now += 1
        assert other.claim(0)
        assert not one.claim(0)


def test_a_heartbeat_renews_the_lease(options: BatchOptions) -> None:
    clock, monotonic = Clock(), Clock()
    with two(options, first_clock=clock, monotonic=monotonic) as (one, other):
        assert one.claim(0)
        for _ in range(3):
            assert not other.claim(0)
            monotonic.now += LEASE_S - 1
            clock.now += LEASE_S - 1
            one.heartbeat()
        assert not other.claim(0)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0, -0.001])
def test_a_jump_of_the_wall_clock_does_not_affect_a_lease(
    jump_s: float, options: BatchOptions
) -> None:
    clock, monotonic = Clock(), Clock()
    with two(options, first_clock=clock, monotonic=monotonic, wall_clock=clock) as (one, other):
        assert one.claim(0)
        assert not other.claim(0)
        clock.now += jump_s
        one.heartbeat()
        monotonic.now += LEASE_S - 1
        assert not other.claim(0), "it sent a heartbeat, whatever the time is"
        clock.now += jump_s
        monotonic.now += LEASE_S
        assert other.claim(0), "a clock change alone is no heartbeat"


def test_an_exclusive_runner_claims_without_the_database(options: BatchOptions) -> None:
    with open_journal(options) as alone:
        assert alone.claim(0)
        with closing(sqlite3.connect(options.directory / "journal.sqlite")) as database:
            assert database.execute("select * from claim").fetchall() == []


def test_testing_a_lock_neither_creates_nor_holds_it(options: BatchOptions) -> None:
    """Two processes that test at the same moment must not see each other as the holder."""
    from foundry_api.storage.lock import FileLock, is_held  # noqa: PLC0415 - only for this test

    options.directory.mkdir()
    path = options.directory / "runner-1.lock"
    assert not is_held(path)
    assert not path.exists(), "testing does not create it"
    with FileLock(path, timeout_s=0):
        assert is_held(path)
        assert is_held(path)
    assert not is_held(path)
