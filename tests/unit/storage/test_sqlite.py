"""The four SQLite databases: foreign files are left alone, and damage is handled."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import shutil
import socket
import sqlite3
import stat
import sys
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import foundry_api
from foundry_api import BatchStorageFailed, ConfigurationError, FoundryError, SqliteCache
from foundry_api.batch.journal import read_statistics, read_status
from foundry_api.core.residency.usage_db import FORMAT as USAGE_FORMAT
from foundry_api.core.residency.usage_db import ClientProcess, DatabaseUnavailable, ModelUsageDb
from foundry_api.monitor.store import SampleStore, read_samples
from foundry_api.monitor.summary import summarise
from foundry_api.storage.database_files import FileFormat, move_foreign_side_files, quarantine
from foundry_api.storage.sqlite import DamagedFile, check_row, open_database
from foundry_api.types.models import Model
from support.journal_factories import make_answer, make_failure, make_options, open_journal
from support.monitor_factories import make_sample

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO = Model(id="demo:1", alias="demo", catalog="local", cached=True, loaded=True, size_mb=3)
FORMAT = FileFormat(application_id=7, version=1, schema="create table t (x);")

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no such files")


async def _use_cache(path: Path) -> None:
    cache = SqliteCache(path)
    try:
        for number in range(6):
            await cache.get(str(number))
            await cache.put(str(number), b"answer" * 300, model="demo:1")
        async with cache.lock("other"):
            pass
        await cache.stats()
        await cache.models()
    finally:
        await cache.close()


async def _read_cache(path: Path) -> None:
    cache = SqliteCache(path)
    try:
        await cache.stats()
        await cache.models()
    finally:
        await cache.close()


async def _clear_cache(path: Path) -> None:
    cache = SqliteCache(path)
    try:
        await cache.clear()
    finally:
        await cache.close()


def _use_history(path: Path) -> None:
    with closing(SampleStore(path, keep_s=1e12)) as store:
        for at in range(20):
            store.add(make_sample("healthy", 1000 + at))


def _read_history(path: Path) -> None:
    summarise(read_samples(path))


def _use_uses(path: Path) -> None:
    for name in ("a", "b"):
        process = ClientProcess(
            client_id=name, program=f"{name}.py", pid=os.getpid(), create_time=1.0
        )
        client = ModelUsageDb(path, process, is_alive=lambda _: True)
        client.claim("here", "demo:1", 60)
        client.record_loaded("here", DEMO, 60)
        client.renew("here", [("demo:1", 1.0)], 60)
        client.lease("here", "demo:1", "load", name, for_s=60, quiet_s=0.0)
        client.list_users("here", "demo:1")
        client.list_known_models("here")


def _use_journal(path: Path) -> None:
    options = make_options(path.parent.parent)
    with open_journal(options) as journal:
        journal.store_check_result(6, {"demo": 6}, set())
        journal.record([make_answer(0), make_answer(1), make_failure(2), make_answer(3)])
        journal.get_finished(0, 10)
        journal.heartbeat(b"{}")
        journal.get_counts()
        journal.get_statistics()
        journal.publish(4)


def _read_journal(path: Path) -> None:
    read_status(path.parent)
    read_statistics(path.parent)


@dataclass(frozen=True)
class Database:
    """One kind of database, and the operations on it."""

    name: str
    place: Callable[[Path], Path]
    use: Callable[[Path], None]
    readers: tuple[Callable[[Path], None], ...]
    errors: tuple[type[Exception], ...]

    def __str__(self) -> str:
        return self.name


def _run(work: Callable[[Path], object], path: Path) -> None:
    asyncio.run(work(path))  # type: ignore[arg-type]


CACHE = Database(
    "cache",
    lambda root: root / "cache" / "answers.db",
    partial(_run, _use_cache),
    (partial(_run, _read_cache), partial(_run, _clear_cache)),
    (ConfigurationError,),
)
HISTORY = Database(
    "history",
    lambda root: root / "history" / "health.db",
    _use_history,
    (_read_history,),
    (ConfigurationError,),
)
USES = Database(
    "uses", lambda root: root / "state" / "uses.db", _use_uses, (), (DatabaseUnavailable,)
)
JOURNAL = Database(
    "journal",
    lambda root: make_options(root).directory / "journal.sqlite",
    _use_journal,
    (_read_journal,),
    (BatchStorageFailed,),
)
DATABASES = [CACHE, HISTORY, USES, JOURNAL]


@pytest.fixture(params=DATABASES, ids=str)
def kind(request: pytest.FixtureRequest) -> Database:
    return request.param  # type: ignore[no-any-return]


# --- foreign files ---


def _text(path: Path) -> None:
    path.write_text("my thesis\n" * 500, encoding="utf-8")


def _short_text(path: Path) -> None:
    path.write_text("x", encoding="utf-8")


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine", encoding="utf-8")


def _link_to_text(path: Path) -> None:
    target = path.with_name("target.txt")
    target.write_text("my thesis", encoding="utf-8")
    path.symlink_to(target)


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.txt"))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # a path of a socket is short
        listener.bind(path.name)


def _database_of(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def _unmarked(path: Path) -> None:
    _database_of(path, "create table theirs (x)")


def _marked(path: Path) -> None:
    _database_of(path, "pragma application_id = 7", "create table theirs (x)")


def _in_wal_mode(path: Path) -> None:
    """A database of another program, which crashed and left its WAL."""
    _database_of(path, "pragma journal_mode = wal", "create table theirs (x)")
    with closing(sqlite3.connect(path)) as database:
        database.execute("insert into theirs values (1)")
        database.commit()
        saved = [(side, path.with_name(path.name + side)) for side in ("-wal", "-shm")]
        content = [(other, other.read_bytes()) for _, other in saved]
    for other, data in content:
        other.write_bytes(data)


def _all_in_its_log(path: Path) -> None:
    """A database of another program, which crashed with all tables in the WAL."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table theirs (x)")
        saved = [path.with_name(path.name + side) for side in ("", "-wal", "-shm")]
        content = [(other, other.read_bytes()) for other in saved]
    for other, data in content:
        other.write_bytes(data)


def _without_tables(path: Path) -> None:
    _database_of(path, "create table theirs (x)", "drop table theirs")


def _damaged(path: Path) -> None:
    _marked(path)
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 40)


def test_each_format_has_its_own_application_id() -> None:
    sources = Path(foundry_api.__file__).parent.rglob("*.py")
    found = [
        number
        for source in sources
        for number in re.findall(r"\bapplication_id=(0x\w+)", source.read_text(encoding="utf-8"))
    ]
    assert len(set(found)) == len(found) > 7


FOREIGN = [
    _text,
    _short_text,
    _directory,
    *([_link_to_text, _dangling_link, _pipe, _socket] if os.name == "posix" else []),
    _unmarked,
    _marked,
    _in_wal_mode,
    _all_in_its_log,
    _without_tables,
    _damaged,
]


def _snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content, or link target, of every file in a directory."""
    found: dict[str, tuple[int, bytes]] = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else b""
        found[str(path.relative_to(root))] = (mode, content)
    return found


@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_files_are_neither_changed_nor_moved(
    kind: Database,
    foreign: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind is USES and foreign in {_text, _short_text, _damaged}:
        pytest.skip("nobody names this file: what is no database is a damaged one, see below")
    path = kind.place(tmp_path)
    path.parent.mkdir()
    foreign(path)
    if not path.is_symlink() and path.is_file():
        path.chmod(0o644)
    before = _snapshot(path.parent)
    for work in (kind.use, *kind.readers):
        if kind is CACHE and work is kind.use:
            with pytest.raises(kind.errors):  # calls continue, but statistics fail
                work(path)
        else:
            with pytest.raises(kind.errors) as raised:
                work(path)
            assert "Free some space" not in str(raised.value)
            assert str(path) in str(raised.value)
        assert _snapshot(path.parent) == before


@posix_only
def test_devices_are_not_written(kind: Database, tmp_path: Path) -> None:
    """Through a link, because tests cannot create a device."""
    path = kind.place(tmp_path)
    path.parent.mkdir()
    path.symlink_to(os.devnull)
    before = stat.S_IMODE(Path(os.devnull).stat().st_mode)
    with pytest.raises(kind.errors):
        kind.use(path)
    assert stat.S_IMODE(Path(os.devnull).stat().st_mode) == before


@pytest.mark.parametrize("side", ["-wal", "-shm", "-journal"])
def test_a_foreign_side_file_is_renamed(
    kind: Database, side: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = kind.place(tmp_path)
    path.parent.mkdir()
    path.with_name(path.name + side).write_text("my thesis", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "foundry_api"):
        kind.use(path)
    moved = path.with_name(f"{path.name}{side}.foreign-1")
    assert moved.read_text(encoding="utf-8") == "my thesis"
    assert str(moved) in caplog.text


@posix_only
def test_our_files_are_private(kind: Database, tmp_path: Path) -> None:
    path = kind.place(tmp_path)
    kind.use(path)
    path.chmod(0o644)
    if kind is JOURNAL:
        _work_on_journal(path)
    else:
        kind.use(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _work_on_journal(path: Path) -> None:
    open_journal(make_options(path.parent.parent)).close()


@pytest.mark.parametrize("kind", [CACHE, HISTORY, JOURNAL], ids=str)
@pytest.mark.parametrize("state", ["missing", "empty", "closed"])
def test_readers_do_not_change_anything(kind: Database, state: str, tmp_path: Path) -> None:
    path = kind.place(tmp_path)
    if state == "closed":
        kind.use(path)
        path.chmod(0o644)
    else:
        path.parent.mkdir()
        if state == "empty":
            path.touch()
    before = _snapshot(path.parent)
    with suppress(*kind.errors):
        kind.readers[0](path)
    assert _snapshot(path.parent) == before


def test_clearing_a_cache_keeps_foreign_files_with_similar_names(tmp_path: Path) -> None:
    path = CACHE.place(tmp_path)
    path.parent.mkdir()
    names = ["answers.db.damaged-1", "answers.db.damaged-2-wal", "answers.db.format-7"]
    for name in names:
        path.with_name(name).write_text("my thesis", encoding="utf-8")
    for _ in range(5):
        CACHE.use(path)
        with path.open("r+b") as file:
            file.seek(16)
            file.write(b"\xff" * 40)
    CACHE.use(path)
    ours = {file.name for file in path.parent.glob("answers.db.damaged-*")} - set(names)
    assert ours == {f"answers.db.damaged-{number}" for number in (10, 11, 12)}
    asyncio.run(_clear_cache(path))
    left = {file.name for file in path.parent.glob("answers.db.*")} - {"answers.db.lock"}
    assert left == set(names)
    for name in names:
        assert path.with_name(name).read_text(encoding="utf-8") == "my thesis"


def test_a_journal_refuses_to_replace_existing_answers(tmp_path: Path) -> None:
    path = JOURNAL.place(tmp_path)
    path.parent.mkdir()
    part = path.with_name("part-000001.jsonl")
    part.write_text("an answer\n", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="no journal") as raised:
        JOURNAL.use(path)
    assert "Move them away" in raised.value.hint
    assert part.read_text(encoding="utf-8") == "an answer\n"


# --- damaged databases ---


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write each database, and return the directories by name."""
    roots: dict[str, Path] = {}
    for kind in DATABASES:
        roots[kind.name] = root = tmp_path_factory.mktemp(kind.name)
        kind.use(kind.place(root))
    return roots


@pytest.mark.parametrize("seed", range(24))
def test_flipped_bytes_cause_our_errors_or_a_new_file(
    kind: Database, seed: int, written: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(written[kind.name], tmp_path, dirs_exist_ok=True)  # times included
    path = kind.place(tmp_path)
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)  # noqa: S311 - no secret
    used = [index for index, byte in enumerate(data) if byte]
    for _ in range(1 + seed % 4):
        where = chance.choice(used if seed % 3 else range(len(data)))
        data[where] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    for work in (*kind.readers[:1], kind.use, *kind.readers):
        with suppress(FoundryError, *kind.errors):
            work(path)


UPDATES = [
    ("cache", "update entries set answer = 'a text'"),
    ("cache", "update totals set bytes = 'many'"),
    ("cache", "delete from totals"),
    ("cache", "update counts set n = x'00'"),
    ("cache", "update counts set name = 'else' where name = 'hits'"),
    ("uses", "update uses set last = 'yesterday'"),
    ("uses", "update uses set until = x'ff'"),
    ("uses", "update clients set pid = 'many'"),
    ("uses", "update loads set at = 'x'"),
    ("uses", "update loads set size_mb = x'00'"),
    ("uses", "update leases set client = cast(x'ff' as text)"),
    ("uses", "update clients set program = cast(x'fffe' as text)"),
    ("uses", "drop table leases"),
    ("history", "update samples set sample = 5"),
    ("history", "update samples set sample = cast(x'ff' as text)"),
    ("history", "update samples set at = 'noon'"),
    ("history", "drop table samples"),
    ("journal", "update meta set value = x'ff'"),
    ("journal", "update meta set value = 'text'"),
    ("journal", "update meta set value = x'5b5d'"),
    ("journal", "update result set offset = 'x'"),
    ("journal", "update result set length = 1000000000000000"),
    ("journal", "update result set length = -7"),
    ("journal", "update result set duration = 'x'"),
    ("journal", "update result set prompt = 'x'"),
    ("journal", "update result set at = 1e300"),
    ("journal", "update runner set since = 'x'"),
    ("journal", "update runner set progress = 'x'"),
    ("journal", "update segment set runner = 'x'"),
    ("journal", "update failure set output = x'ff'"),
    ("journal", "update own set size = 'x'"),
    ("journal", "drop table failure"),
]


@pytest.mark.parametrize(("name", "statement"), UPDATES)
def test_an_impossible_value_is_damage(name: str, statement: str, tmp_path: Path) -> None:
    (kind,) = [kind for kind in DATABASES if kind.name == name]
    path = kind.place(tmp_path)
    kind.use(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()
    for work in (kind.use, *kind.readers, kind.use):
        with suppress(*kind.errors):
            work(path)
    if kind is not JOURNAL:
        kind.use(path)


def list_open_files() -> set[str]:
    return {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the open files by name")
def test_a_closed_database_is_closed_although_a_query_was_not_read(tmp_path: Path) -> None:
    """On Windows the file could not be renamed: the error that is handled refers to the query."""
    path = USES.place(tmp_path)
    USES.use(path)
    database = open_database(path, USAGE_FORMAT, lock=nullcontext(), timeout_s=1.0)
    rows = database.execute("select client from clients union all select 2")
    assert next(rows)
    database.close()
    assert str(path.resolve()) not in list_open_files()


def test_a_damaged_usage_database_is_quarantined(tmp_path: Path) -> None:
    path = USES.place(tmp_path)
    USES.use(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("update uses set last = 'yesterday'")
        database.commit()
    with pytest.raises(DatabaseUnavailable):
        USES.use(path)
    USES.use(path)
    assert path.with_name("uses.db.damaged-1").exists()


def test_a_damaged_application_id_is_quarantined(tmp_path: Path) -> None:
    path = USES.place(tmp_path)
    USES.use(path)
    _database_of(path, "pragma application_id = 7")
    USES.use(path)
    assert path.with_name("uses.db.damaged-1").exists()


def test_a_usage_database_without_application_id_is_ours(tmp_path: Path) -> None:
    path = USES.place(tmp_path)
    USES.use(path)
    _database_of(path, "pragma application_id = 0")
    USES.use(path)
    assert not list(path.parent.glob("*damaged*"))


def test_a_refused_journal_leaves_no_lock(tmp_path: Path) -> None:
    path = JOURNAL.place(tmp_path)
    path.parent.mkdir()
    path.with_name("part-000001.jsonl").write_text("answers", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="no journal"):
        _work_on_journal(path)
    assert [found.name for found in path.parent.iterdir()] == ["part-000001.jsonl"]


def test_a_damaged_journal_has_a_hint(tmp_path: Path) -> None:
    path = JOURNAL.place(tmp_path)
    JOURNAL.use(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    for work in (_work_on_journal, *JOURNAL.readers):
        with pytest.raises(BatchStorageFailed, match="is damaged") as raised:
            work(path)
        assert f"Move {path.parent} away" in raised.value.hint
        if sys.platform == "linux":  # elsewhere they are not listed by name
            assert str(path.resolve()) not in list_open_files()


def test_a_history_damaged_during_writes_is_quarantined(tmp_path: Path) -> None:
    path = HISTORY.place(tmp_path)
    with closing(SampleStore(path, keep_s=1e12)) as store:
        store.add(make_sample("healthy", 1000))
        with closing(sqlite3.connect(path)) as database:
            database.execute("drop table samples")
            database.commit()
        store.add(make_sample("healthy", 1001))
    assert [sample.checked_at for sample in read_samples(path)] == [1001]
    assert path.with_name("health.db.damaged-1").exists()


@pytest.mark.parametrize("row", [None, (), (1, 2), ("1",), (None,), (b"",)])
def test_check_row_refuses_other_types(row: tuple[object, ...] | None) -> None:
    assert check_row((1,), int) == (1,)
    with pytest.raises(DamagedFile):
        check_row(row, int)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
def test_a_file_quarantined_during_open_is_reopened(tmp_path: Path) -> None:
    """SQLite would use its WAL for the new file."""
    path = tmp_path / "a.db"
    laid_out: list[Path] = []

    class Lock:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            laid_out.append(path)
            if len(laid_out) == 1:
                quarantine(path, "damaged")

    with closing(open_database(path, FORMAT, lock=Lock(), timeout_s=1)) as database:
        database.execute("insert into t values (1)")
    assert len(laid_out) == 2
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("select * from t").fetchall() == [(1,)]


@pytest.mark.parametrize("failures", [1, 5])
def test_a_journal_that_another_has_deleted_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """As SQLite fails on Windows when two open a new file; it can't be forced here."""
    path, calls = tmp_path / "a.db", list[str]()
    execute_script = sqlite3.Connection.executescript

    def fail(database: sqlite3.Connection, script: str) -> sqlite3.Cursor:
        calls.append(script)
        if len(calls) <= failures:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_DELETE_NOENT
            raise error
        return execute_script(database, script)

    monkeypatch.setattr("foundry_api.storage.sqlite._Connection.executescript", fail)
    if failures == 1:
        with closing(open_database(path, FORMAT, lock=nullcontext(), timeout_s=1)) as database:
            assert database.execute("select count(*) from t").fetchone() == (0,)
    else:  # not for ever
        with pytest.raises(sqlite3.Error):
            open_database(path, FORMAT, lock=nullcontext(), timeout_s=1)
        assert len(calls) == failures


def test_a_journal_is_only_read_under_the_lock_of_its_writer(tmp_path: Path) -> None:
    """SQLite on Windows cannot delete it while it is open here, and the creation fails."""
    path = tmp_path / "a.db"
    path.with_name("a.db-journal").write_bytes(b"a letter")
    seen: list[str] = []

    class Lock:
        def __enter__(self) -> None:
            seen.append("taken")

        def __exit__(self, *_: object) -> None:
            seen.append("released")
            assert path.with_name("a.db-journal.foreign-1").exists()

    move_foreign_side_files(path, Lock())
    move_foreign_side_files(path, Lock())
    assert seen == ["taken", "released"]


def test_an_unfinished_checkpoint_is_not_damage(tmp_path: Path) -> None:
    """A process copies the WAL into the file, page by page, and may be killed between two."""
    path = tmp_path / "own.db"
    with closing(open_database(path, FORMAT, lock=nullcontext(), timeout_s=1)) as writer:
        writer.execute("pragma wal_checkpoint(truncate)")
        writer.execute("pragma wal_autocheckpoint = 0")
        writer.executemany("insert into t values (?)", [("x" * 1000,)] * 100)
        copy_first_page_from_wal(path)
        with closing(open_database(path, FORMAT, lock=nullcontext(), timeout_s=1)) as reader:
            assert reader.execute("select count(*) from t").fetchone() == (100,)


def copy_first_page_from_wal(path: Path) -> None:
    """Do the first step of a checkpoint. See "WAL-mode File Format" in SQLite's documentation."""
    wal = path.with_name(f"{path.name}-wal").read_bytes()
    page_bytes = int.from_bytes(wal[8:12], "big")
    frames = range(32, len(wal), 24 + page_bytes)
    first_page = [at for at in frames if wal[at : at + 4] == bytes([0, 0, 0, 1])][-1]
    size_before = path.stat().st_size
    with path.open("r+b") as file:
        file.write(wal[first_page + 24 : first_page + 24 + page_bytes])
    assert (
        path.stat().st_size
        == size_before
        < int.from_bytes(path.read_bytes()[28:32], "big") * page_bytes
    )
