"""The cache in a file that is shared, damaged, locked, removed or not accessible."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import stat
import sys
import threading
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, NoReturn

import pytest

from foundry_api.core.cache import file as cache_file
from foundry_api.core.cache import sqlite
from foundry_api.core.cache.sqlite import SqliteCache
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.events import CacheTrouble, Event
from service.helpers import start_program, wait_until_async

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ANSWER = b"an answer " * 400
posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
as_a_user = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="root may write where nobody may"
)


class Caches:
    """Several caches on one file, as in several programs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self.caches: list[SqliteCache] = []
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds > sqlite.MAX_WAIT_S:  # until a claim is renewed
            await asyncio.sleep(seconds)
        self.waits.append(seconds)
        await asyncio.sleep(0.001)

    def one(self, **options: object) -> SqliteCache:
        cache = SqliteCache(self.path, sleep=self.sleep, **options)  # type: ignore[arg-type] # a test's own
        cache.bind(None, self.events.append)
        self.caches.append(cache)
        return cache

    @property
    def troubles(self) -> list[CacheTrouble]:
        return [event for event in self.events if isinstance(event, CacheTrouble)]


@pytest.fixture
async def caches(tmp_path: Path) -> AsyncIterator[Caches]:
    caches = Caches(tmp_path / "cache" / "answers.db")
    yield caches
    for cache in caches.caches:
        await cache.close()
    assert not [thread for thread in threading.enumerate() if "foundry-api-cache" in thread.name]


async def test_stored_answer_is_found_by_another_cache_and_after_close(caches: Caches) -> None:
    a, b = caches.one(), caches.one()
    assert await a.get("k") is None
    assert await a.put("k", ANSWER, model="demo:1")
    assert await b.get("k") == ANSWER
    await a.close()
    assert await a.get("k") == ANSWER
    assert (await b.stats()).entries == 1
    assert await b.models() == {"demo:1": (1, 4001)}
    assert await a.clear() == 1
    assert await b.get("k") is None


@posix_only
async def test_only_this_user_can_read_the_file(caches: Caches) -> None:
    cache = caches.one()
    await cache.put("k", ANSWER, model="demo:1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in caches.path.parent.iterdir()}
    assert modes.pop("answers.db") == 0o600
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(caches.path.parent.stat().st_mode) == 0o700


@posix_only
async def test_file_that_others_could_read_is_made_private(caches: Caches) -> None:
    caches.path.parent.mkdir()
    caches.path.touch(mode=0o644)
    await caches.one().put("k", ANSWER, model="demo:1")
    assert stat.S_IMODE(caches.path.stat().st_mode) == 0o600


async def test_closing_an_unused_or_closed_cache_does_nothing(caches: Caches) -> None:
    cache = caches.one()
    await cache.close()
    await cache.put("k", ANSWER, model="demo:1")
    await cache.close()
    await cache.close()
    assert not [thread for thread in threading.enumerate() if "foundry-api-cache" in thread.name]


def test_cache_can_be_used_on_one_event_loop_after_another(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "answers.db")
    asyncio.run(put(cache))
    assert asyncio.run(cache.get("k")) == ANSWER
    asyncio.run(cache.close())


async def put(cache: SqliteCache) -> bool:
    return await cache.put("k", ANSWER, model="demo:1")


async def test_slow_disk_does_not_block_the_event_loop(caches: Caches) -> None:
    """While another process writes, the put waits in its thread, and the loop runs."""
    cache = caches.one()
    await put(cache)
    with closing(sqlite3.connect(caches.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        putting = asyncio.create_task(put(cache))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not putting.done()
        other.execute("commit")
        assert await putting


async def test_cancelled_call_leaves_no_claim(caches: Caches) -> None:
    a, b = caches.one(), caches.one()
    await put(a)
    for rounds in range(30):

        async def make() -> None:
            async with a.lock("other"):
                await asyncio.Event().wait()

        making = asyncio.create_task(make())
        for _ in range(rounds):
            await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    async with b.lock("other") as made:
        assert made is None
    assert caches.waits == []


async def test_concurrent_callers_wait_for_the_answer_of_one(caches: Caches) -> None:
    a, b = caches.one(), caches.one()
    async with a.lock("k") as made:
        assert made is None
        waiting = asyncio.create_task(turn(b))
        await wait_until_async(lambda: len(caches.waits) >= 7)
        await put(a)
    assert await waiting == ANSWER
    assert caches.waits[:7] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]


async def turn(cache: SqliteCache, key: str = "k") -> bytes | None:
    async with cache.lock(key) as made:
        return made


async def test_next_caller_tries_after_a_failed_one(caches: Caches) -> None:
    a, b = caches.one(), caches.one()
    with pytest.raises(ZeroDivisionError):
        async with a.lock("k"):
            raise ZeroDivisionError
    assert await turn(b) is None
    assert caches.waits == []


async def test_claim_is_renewed_as_long_as_the_work_takes(caches: Caches) -> None:
    async def shortly(seconds: float) -> None:
        del seconds
        await asyncio.sleep(0.001)

    cache = SqliteCache(caches.path, sleep=shortly)
    caches.caches.append(cache)
    async with cache.lock("k"):
        first = lapses_at(caches.path)
        await wait_until_async(lambda: lapses_at(caches.path) > first)
    assert await turn(caches.one()) is None


def lapses_at(path: Path) -> float:
    with closing(sqlite3.connect(path)) as other:
        (until,) = other.execute("select until from claims").fetchone()
        return float(until)


# --- what may happen to the file ---


def header_damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\xff" * 44)


def pages_broken(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = [header_damaged, pages_broken, cut_short]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_file_is_set_aside_and_replaced(
    caches: Caches, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache = caches.one()
    for number in range(40):
        await cache.put(str(number), ANSWER, model="demo:1")
    await cache.close()
    damage(caches.path)
    await cache.get("1")
    assert await put(cache)
    assert await cache.get("k") == ANSWER
    aside = caches.path.with_name("answers.db.damaged-1")
    assert aside.exists()
    (trouble,) = caches.troubles
    assert trouble.backup_path == str(aside)
    assert trouble.path == str(caches.path)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert str(aside) in record.message


async def test_file_damaged_while_open_is_set_aside(caches: Caches) -> None:
    a, b = caches.one(), caches.one()
    for cache in (a, b):
        for number in range(40):
            await cache.put(str(number), ANSWER, model="demo:1")
    await asyncio.to_thread(checkpoint, caches.path)
    pages_broken(caches.path)
    for cache in (a, b):
        for number in range(40):
            await cache.get(str(number))
        # Windows does not rename the file while the second one has it open.
        assert await put(cache) or (os.name == "nt" and cache is a)
    assert await put(a)
    assert await a.get("k") == await b.get("k") == ANSWER
    set_aside = [trouble for trouble in caches.troubles if trouble.backup_path is not None]
    assert len(set_aside) == 1  # the second one saw that there is a new file
    assert caches.troubles == set_aside or os.name == "nt"


def checkpoint(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("pragma wal_checkpoint(truncate)")


@pytest.mark.parametrize("keep", [0, 0.5, 0.9])
async def test_truncated_log_loses_only_the_last_answers(caches: Caches, keep: float) -> None:
    """A killed program leaves a file and a write-ahead log that may be truncated."""
    program = start_program(LEAVES_A_LOG, str(caches.path))
    assert program.stdout is not None
    assert program.stdout.readline() == "written\n"
    program.kill()
    program.communicate()
    log = caches.path.with_name("answers.db-wal")
    os.truncate(log, int(log.stat().st_size * keep))
    cache = caches.one()
    found = [number for number in range(40) if await cache.get(str(number))]
    assert found == list(range(len(found)))
    assert len(found) < 40
    assert await put(cache)
    assert caches.troubles == []


LEAVES_A_LOG = """
import asyncio, sys, time
from foundry_api.core.cache.sqlite import SqliteCache

async def main():
    cache = SqliteCache(sys.argv[1])
    for number in range(40):
        await cache.put(str(number), b"an answer " * 100, model="demo:1")
    print("written", flush=True)
    time.sleep(60)

asyncio.run(main())
"""


async def test_garbage_in_the_log_is_ignored(caches: Caches) -> None:
    cache = caches.one()
    await put(cache)
    await cache.close()
    caches.path.with_name("answers.db-wal").write_bytes(os.urandom(50_000))
    assert await cache.get("k") == ANSWER


async def test_last_damaged_files_are_kept_until_clear(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_file, "MAX_REPLACED", 10)
    cache = caches.one()
    for _ in range(5):
        await put(cache)
        await cache.close()
        header_damaged(caches.path)
    await put(cache)
    names = [path.name for path in sorted(caches.path.parent.glob("*damaged*"))]
    assert names == [f"answers.db.damaged-{number}" for number in (3, 4, 5)]
    await cache.clear()
    assert not list(caches.path.parent.glob("*damaged*"))


async def test_file_is_not_replaced_forever_on_a_damaging_disk(
    caches: Caches, caplog: pytest.LogCaptureFixture
) -> None:
    cache = caches.one()
    for _ in range(6):
        await put(cache)
        await cache.close()
        header_damaged(caches.path)
    assert await cache.get("k") is None
    assert len(list(caches.path.parent.glob("*damaged*"))) == 3
    assert caches.troubles[-1].backup_path is None


async def test_damaged_file_that_others_hold_open_is_set_aside_later(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows renames no file that is open. A try that fails does not count as a replacement."""
    cache = caches.one()
    await put(cache)
    await cache.close()
    header_damaged(caches.path)
    with monkeypatch.context() as held_open:

        def refuse(path: Path, target: Path) -> NoReturn:
            raise PermissionError(13, "The process cannot access the file", str(path), str(target))

        held_open.setattr(type(caches.path), "replace", refuse)
        for _ in range(5):
            assert await cache.get("k") is None
    assert await put(cache)
    assert await cache.get("k") == ANSWER
    assert caches.path.with_name("answers.db.damaged-1").exists()


@pytest.mark.parametrize("version", [0, 99])
async def test_file_of_another_format_is_set_aside(caches: Caches, version: int) -> None:
    cache = caches.one()
    await put(cache)
    await cache.close()
    with closing(sqlite3.connect(caches.path)) as other:
        other.execute(f"pragma user_version = {version}")
    assert await cache.get("k") is None
    assert await put(cache)
    assert caches.path.with_name("answers.db.format-1").exists()
    assert "format" in caches.troubles[0].problem


async def test_database_of_another_program_is_left_unchanged(
    caches: Caches, caplog: pytest.LogCaptureFixture
) -> None:
    caches.path.parent.mkdir()
    with closing(sqlite3.connect(caches.path)) as other:
        other.execute("create table mine (x)")
    before = caches.path.read_bytes()
    cache = caches.one()
    assert not await put(cache)
    assert await cache.get("k") is None
    assert caches.path.read_bytes() == before
    assert len(caches.troubles) == 1
    with pytest.raises(ConfigurationError, match="database of another program"):
        await cache.clear()
    with pytest.raises(ConfigurationError, match="another program"):
        await cache.stats()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
async def test_removed_or_replaced_file_is_created_again(caches: Caches) -> None:
    a = caches.one()
    await put(a)
    for side in ("", "-wal", "-shm"):
        caches.path.with_name(f"answers.db{side}").unlink(missing_ok=True)
    assert await a.get("k") is None
    assert await put(a)
    assert await caches.one().get("k") == ANSWER
    assert caches.troubles == []


async def test_directory_at_the_path_is_reported_once(
    caches: Caches, caplog: pytest.LogCaptureFixture
) -> None:
    caches.path.mkdir(parents=True)
    cache = caches.one()
    for _ in range(3):
        assert not await put(cache)
        assert await cache.get("k") is None
    assert await turn(cache) is None
    assert len(caches.troubles) == 1
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "calls continue without the cache" in warnings[0].message


@as_a_user
async def test_read_only_directory_is_never_fatal(caches: Caches) -> None:
    caches.path.parent.mkdir(mode=0o500)
    assert not await put(caches.one())
    assert len(caches.troubles) == 1


@posix_only
@pytest.mark.usefixtures("no_bytecode")
async def test_full_disk_is_never_fatal(caches: Caches, tmp_path: Path) -> None:
    """A limit on the file size has the same effect as a full disk."""
    program = start_program(FULL_DISK, str(caches.path))
    output, errors = program.communicate(timeout=60)
    assert (output, program.returncode) == ("True\nFalse\nTrue\n1\n", 0), errors
    assert await caches.one().get("small") == b"x"


FULL_DISK = """
import asyncio, os, resource, signal, sys
from foundry_api.core.cache.sqlite import SqliteCache

async def main():
    troubles = []
    cache = SqliteCache(sys.argv[1])
    cache.bind(None, troubles.append)
    print(await cache.put("small", b"x", model="demo:1"))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    print(await cache.put("large", os.urandom(1_000_000), model="demo:1"))
    await cache.put("larger", os.urandom(1_000_000), model="demo:1")
    print(await cache.get("small") == b"x")
    await cache.close()
    print(len(troubles))

asyncio.run(main())
"""


# --- other programs ---

MAKES_AND_HANGS = """
import asyncio, sys
from foundry_api.core.cache import sqlite
from foundry_api.core.cache.sqlite import SqliteCache

async def main():
    sqlite.LEASE_S = float(sys.argv[2])
    async with SqliteCache(sys.argv[1]).lock("k") as made:
        print(made, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@asynccontextmanager
async def maker(path: Path) -> AsyncIterator[subprocess.Popen[str]]:
    """A program that makes an answer and never finishes."""
    program = start_program(MAKES_AND_HANGS, str(path), "15.0")
    try:
        assert program.stdout is not None
        assert await asyncio.to_thread(program.stdout.readline) == "None\n"
        yield program
    finally:
        program.kill()
        program.communicate()


async def test_another_program_takes_over_from_a_killed_one(caches: Caches) -> None:
    async with maker(caches.path) as program:
        cache = SqliteCache(caches.path)
        waiting = asyncio.create_task(turn(cache))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        program.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        assert await asyncio.wait_for(waiting, 5) is None
        await cache.close()


@posix_only
async def test_another_program_takes_over_when_the_lease_expires(
    caches: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is suspended: alive, but it renews nothing. When it continues, it does no harm."""
    monkeypatch.setattr(sqlite, "LEASE_S", 1.0)
    program = start_program(MAKES_AND_HANGS, str(caches.path), "1.0")
    assert program.stdout is not None
    assert await asyncio.to_thread(program.stdout.readline) == "None\n"
    program.send_signal(signal.SIGSTOP)
    cache = SqliteCache(caches.path)
    async with asyncio.timeout(10), cache.lock("k") as made:
        assert made is None
        program.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.5)  # time for its next renewal
        program.send_signal(signal.SIGTERM)
        await asyncio.to_thread(program.communicate)
        await put(cache)
    assert await cache.get("k") == ANSWER
    await cache.close()


async def test_many_programs_write_in_parallel_without_loss(caches: Caches) -> None:
    programs = [start_program(WRITES, str(caches.path), str(number)) for number in range(4)]
    ends = [await asyncio.to_thread(program.communicate) for program in programs]
    assert ends == [("50 50\n", "")] * len(programs)
    assert not any(program.returncode for program in programs)
    stats = await caches.one().stats()
    assert (stats.entries, stats.stores, stats.hits) == (200, 200, 200)


WRITES = """
import asyncio, sys
from foundry_api.core.cache.sqlite import SqliteCache

async def main():
    cache = SqliteCache(sys.argv[1])
    keys = [f"{sys.argv[2]}-{number}" for number in range(50)]
    kept = [await cache.put(key, key.encode() * 100, model="demo:1") for key in keys]
    found = [await cache.get(key) == key.encode() * 100 for key in keys]
    await cache.close()
    print(sum(kept), sum(found))

asyncio.run(main())
"""


async def test_python_without_sqlite_works_without_a_cache(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("database", "file"):
        monkeypatch.delitem(sys.modules, f"foundry_api.core.cache.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    cache = caches.one()
    assert not await put(cache)
    assert await cache.get("k") is None
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 1
    with pytest.raises(ConfigurationError, match="no SQLite"):
        await cache.stats()


async def test_file_is_in_the_home_of_the_first_client(tmp_path: Path) -> None:
    cache = SqliteCache()
    cache.bind(tmp_path / "home", print)
    cache.bind(tmp_path / "other", print)
    assert cache.path == tmp_path / "home" / "cache" / "answers.db"
    cache.unbind(print)
    cache.unbind(print)
    cache.unbind(print)
