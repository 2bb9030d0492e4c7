"""Samples in a SQLite file."""

from __future__ import annotations

import logging
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from foundry_api import BreakerStatistics, Canary, ConfigurationError, LimiterStatistics, Traffic
from foundry_api.monitor import store as store_module
from foundry_api.monitor.store import SampleStore, StoreWriter, read_samples
from support.monitor_factories import make_sample

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "health.db"


def fill(path: Path, *ats: float, keep_s: float = 7 * DAY_S, now: float = 2_000.0) -> None:
    with closing(SampleStore(path, keep_s=keep_s, wall_clock=lambda: now)) as store:
        for at in ats:
            store.add(make_sample("healthy", at))


def test_a_sample_is_read_as_it_was_written(path: Path) -> None:
    sample = make_sample(
        "degraded",
        loaded_models=("demo:1",),
        detail="It's wrong; DROP TABLE samples",
        traffic=Traffic(answered=3, time_to_first_token_s=0.1),
        canary=Canary(outcome="failed", detail="no"),
        breaker=BreakerStatistics("open", 10, 5, 0, 0.5, 0.0, 1, 7, 2.5),
        limiter=LimiterStatistics(2, 1, 0, 0, None),
    )
    with closing(SampleStore(path, keep_s=DAY_S)) as store:
        store.add(sample)
    assert read_samples(path) == [sample]


def test_samples_of_several_runs_are_read_in_order_of_time(path: Path) -> None:
    fill(path, 1000, 1002)
    fill(path, 1001)
    assert [sample.checked_at for sample in read_samples(path)] == [1000, 1001, 1002]
    assert [sample.checked_at for sample in read_samples(path, since=1001.5)] == [1002]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_only_the_owner_may_read_the_file_and_its_side_files(path: Path) -> None:
    with closing(SampleStore(path, keep_s=DAY_S)) as store:
        store.add(make_sample("healthy"))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes) == {"health.db", "health.db-wal", "health.db-shm", "health.db.lock"}
    assert set(modes.values()) == {0o600}


def test_old_samples_are_deleted_at_the_start_and_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, 1000, 1900)
    fill(path, keep_s=200, now=2_000)
    assert [sample.checked_at for sample in read_samples(path)] == [1900]
    monkeypatch.setattr(store_module, "PRUNE_EVERY", 3)
    fill(path, 1000, 1001, 1950, keep_s=60, now=2_000)
    assert [sample.checked_at for sample in read_samples(path)] == [1950]


@pytest.mark.parametrize("damage", ["middle", "end"])
def test_a_damaged_file_is_renamed_and_a_new_one_written(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path, *range(1000, 1200))
    data = bytearray(path.read_bytes())
    if damage == "middle":
        data[100:8000] = b"\xff" * 7900
    else:
        del data[5000:]
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "foundry_api"):
        fill(path, 1500)
    assert [sample.checked_at for sample in read_samples(path)] == [1500]
    (renamed,) = path.parent.glob("health.db.damaged-*")
    assert renamed.read_bytes() == data
    assert renamed.name in caplog.text


@pytest.mark.parametrize("reads", [True, False])
def test_a_file_of_another_kind_is_left_alone(path: Path, reads: bool) -> None:  # noqa: FBT001 - a parameter of the test
    path.parent.mkdir()
    path.write_text("my notes, not a database\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not a history"):
        read_samples(path) if reads else fill(path, 1)
    assert path.read_text(encoding="utf-8").startswith("my notes")


@pytest.mark.parametrize("number", [0, 7])
def test_the_database_of_another_program_is_left_alone(path: Path, number: int) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA application_id = {number}")
        database.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="is not a history"):
        fill(path, 1)
    assert path.read_bytes() == before


def test_a_missing_history_is_an_error(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no history"):
        read_samples(path)


def test_an_unwritable_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        fill(tmp_path / "file" / "health.db", 1)


def test_unreadable_samples_are_skipped_and_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path, 1000)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute('INSERT INTO samples VALUES (1001, NULL, \'{"status": "odd"}\')')
    with caplog.at_level(logging.WARNING, "foundry_api"):
        assert len(read_samples(path)) == 1
    assert "1 samples" in caplog.text


def test_a_writer_logs_a_failure_once_and_its_recovery(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = SampleStore.add
    failing = [True]

    def full(store: SampleStore, sample: object) -> None:
        if failing:
            raise sqlite3.OperationalError("database or disk is full")
        add(store, sample)  # type: ignore[arg-type]

    monkeypatch.setattr(SampleStore, "add", full)
    writer = StoreWriter(path, keep_s=1e9)
    writer.open().result()
    with caplog.at_level(logging.WARNING, "foundry_api"):
        for at in range(3):
            writer.add(make_sample("healthy", 1000 + at))
        writer._thread.submit(failing.clear).result()
        writer.add(make_sample("healthy", 1003))
        writer.close().result()
    assert [record.message for record in caplog.records] == [
        f"samples are not written to {path}: database or disk is full",
        f"{path} is written again; 3 samples were lost",
    ]
    assert [sample.checked_at for sample in read_samples(path)] == [1003]
