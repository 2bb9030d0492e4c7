"""The keys in memory: look-up, changes, clocks, and a database that cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_api.gateway.keys.clock import ForwardClock, LatestTime
from foundry_api.gateway.keys.database import KeyDatabase, KeyReader
from foundry_api.gateway.keys.errors import KeyStorageFailed
from foundry_api.gateway.keys.keyring import POLL_S, Keyring
from foundry_api.gateway.keys.token import SECRET_ALPHABET, make_token
from gateway.keys.helpers import DAY_S, FakeClock, add_checksum, create
from support.cli_program import make_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

HOSTILE = [
    "",
    "fk_",
    "' OR '1'='1",
    "'; drop table keys; --",
    "\0",
    "fk_\0" + "a" * 59,
    "%s%n%d",
    "{0.__class__}",
    "🔑" * 63,
    "x" * 1_000_000,
    "fk_" + "a" * 1_000_000,
    b"\x80\xff".decode("utf-8", "surrogateescape"),
    "\udc80" * 63,
    "fk_k7m2q9xa_" + "é" * 51,
    "fk_k7m2q9xa_" + "٣" * 51,
    make_token("k7m2q9xa"),
    make_token("k7m2q9xa") + "\n",
    " " + make_token("k7m2q9xa"),
    make_token("k7m2q9xa").upper(),
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> KeyDatabase:
    return KeyDatabase(tmp_path / "gateway", wall_clock=clock, busy_timeout_s=0.05)


@pytest.fixture
def ended() -> list[set[str]]:
    """The ids of keys whose calls the keyring ended, for each time that it did."""
    return []


@pytest.fixture
async def ring(
    database: KeyDatabase, clock: FakeClock, ended: list[set[str]]
) -> AsyncIterator[Keyring]:
    ring = Keyring(
        database,
        on_revoked=lambda ids: ended.append(set(ids)),
        wall_clock=clock,
        monotonic=lambda: 0.0,
    )
    await ring.open()
    yield ring
    await ring.close()


@contextlib.asynccontextmanager
async def open_ring(database: KeyDatabase, clock: FakeClock) -> AsyncIterator[Keyring]:
    """Another keyring, as after a restart."""
    ring = Keyring(database, on_revoked=lambda _: None, wall_clock=clock, monotonic=lambda: 7.0)
    await ring.open()
    yield ring
    await ring.close()


class TestFind:
    async def test_a_key_by_its_token(self, database: KeyDatabase, ring: Keyring) -> None:
        key, token = create(database)
        assert ring.find(token) is None
        await ring.reload()
        assert ring.find(token) == key
        assert ring.keys == (key,)

    @pytest.mark.parametrize("token", HOSTILE, ids=range(len(HOSTILE)))
    async def test_p13_hostile_tokens_are_unknown(
        self, database: KeyDatabase, ring: Keyring, token: str
    ) -> None:
        _, valid = create(database)
        await ring.reload()
        assert ring.find(token) is None
        assert ring.find(valid)

    @given(text=st.text(st.characters(exclude_categories=[])))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_p13_any_text_is_unknown(self, database: KeyDatabase, text: str) -> None:
        assert Keyring(database, on_revoked=lambda _: None).find(text) is None

    async def test_p17_every_cause_has_the_same_result(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock
    ) -> None:
        _, expired = create(database, "a", lifetime_s=1)
        _, revoked = create(database, "b")
        _, removed = create(database, "c")
        _, replaced = create(database, "d")
        _, lapsed = create(database, "e")
        database.revoke("b")
        database.remove("c")
        database.rotate("d", grace_s=0)
        database.rotate("e", grace_s=1)
        clock.now += 1
        await ring.reload()
        malformed, unknown = "fk_?", make_token("k7m2q9xa")
        tokens = (expired, revoked, removed, replaced, lapsed, malformed, unknown)
        assert [ring.find(token) for token in tokens] == [None] * 7

    async def test_p18_nothing_shows_a_token(
        self, database: KeyDatabase, ring: Keyring, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        _, token = create(database)
        await ring.reload()
        ring.find(token)
        database.revoke("ci")
        await ring.reload()
        ring.find(token)
        assert token[12:55] not in f"{ring!r}{ring.keys!r}{vars(ring)!r}{caplog.text}"

    async def test_p19_the_steps_do_not_depend_on_a_right_start(
        self, database: KeyDatabase, ring: Keyring
    ) -> None:
        """Counted in lines that run, which does not depend on the load of the machine."""
        _, token = create(database)
        await ring.reload()
        start, secret = token[:12], token[12:55]
        other = {char: SECRET_ALPHABET[::-1][index] for index, char in enumerate(SECRET_ALPHABET)}
        counts: set[tuple[str, ...]] = set()
        for right_chars in range(43):
            rest = "".join(other[char] for char in secret[right_chars:])
            guess = add_checksum(start + secret[:right_chars] + rest)
            with trace_lines() as lines:
                assert ring.find(guess) is None
            counts.add(tuple(lines))
        assert len(counts) == 1

    async def test_p13_no_query_is_made_for_a_token(
        self, database: KeyDatabase, ring: Keyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, token = create(database)
        await ring.reload()
        monkeypatch.setattr(KeyReader, "read", None)
        monkeypatch.setattr(KeyDatabase, "connect", None)
        assert ring.find(token)
        assert ring.find("' OR '1'='1") is None


@contextlib.contextmanager
def trace_lines() -> Iterator[list[str]]:
    """Collect the lines that run, by file and number.

    Without garbage collections: their callbacks, such as those of hypothesis, run lines too.
    """
    lines: list[str] = []

    def trace(frame: Any, event: str, _: object) -> Any:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}:{event}")
        return trace

    earlier = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(earlier)
        gc.enable()


class TestClock:
    async def test_a_key_expires(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock
    ) -> None:
        _, token = create(database, lifetime_s=DAY_S)
        await ring.reload()
        clock.now += DAY_S - 1
        assert ring.find(token)
        clock.now += 1
        assert ring.find(token) is None

    async def test_a_clock_set_back_revives_nothing(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock
    ) -> None:
        _, expired = create(database, "a", lifetime_s=DAY_S)
        _, lapsed = create(database, "b")
        _, current = database.rotate("b", grace_s=DAY_S)
        _, revoked = create(database, "c")
        database.revoke("c")
        await ring.reload()
        clock.now += DAY_S
        assert ring.find(expired) is None
        clock.now -= 10 * DAY_S
        assert [ring.find(token) for token in (expired, lapsed, revoked)] == [None] * 3
        create(database, "d")
        await ring.reload()
        assert [ring.find(token) for token in (expired, lapsed, revoked)] == [None] * 3
        assert ring.find(current)

    async def test_a_clock_set_back_before_a_restart_revives_nothing(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock
    ) -> None:
        _, expired = create(database, "a", lifetime_s=DAY_S)
        _, lapsed = create(database, "b")
        _, current = database.rotate("b", grace_s=DAY_S)
        await ring.reload()
        clock.now += DAY_S
        await ring.reload()  # the gateway is killed after this, so that it closes nothing
        clock.now -= 10 * DAY_S
        async with open_ring(database, clock) as again:
            assert [again.find(token) for token in (expired, lapsed)] == [None] * 2
            assert again.find(current)
        assert database.get("a").get_state(database.now()) == "expired"

    async def test_a_start_after_the_end_is_remembered(
        self, database: KeyDatabase, clock: FakeClock
    ) -> None:
        _, token = create(database, lifetime_s=DAY_S)
        clock.now += DAY_S
        async with open_ring(database, clock) as ring:
            assert ring.find(token) is None
        clock.now -= 10 * DAY_S
        async with open_ring(database, clock) as ring:
            assert ring.find(token) is None

    async def test_a_clock_that_is_behind_is_reported(
        self, database: KeyDatabase, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        database.create_directory()
        LatestTime(database.path.parent).write(clock.now + 3600)
        async with open_ring(database, clock):
            assert "is 3600 s behind a time that this gateway has seen" in caplog.text

    async def test_the_file_is_written_only_if_a_token_has_ended(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock
    ) -> None:
        create(database, lifetime_s=DAY_S)
        path = LatestTime(database.path.parent).path
        await ring.reload()
        clock.now += DAY_S - 1
        await ring.reload()
        assert not path.exists()
        clock.now += 1
        await ring.reload()
        assert float(path.read_text(encoding="utf-8")) == clock.now
        clock.now += 1
        await ring.reload()
        assert float(path.read_text(encoding="utf-8")) == clock.now - 1

    async def test_a_time_that_cannot_be_stored_is_a_problem(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock
    ) -> None:
        _, token = create(database, lifetime_s=DAY_S)
        path = LatestTime(database.path.parent).path
        path.mkdir()
        clock.now += DAY_S
        await ring.reload()
        assert ring.problem is not None
        assert "cannot be written" in ring.problem
        assert ring.find(token) is None
        path.rmdir()
        await ring.reload()
        assert ring.problem is None

    @pytest.mark.parametrize("content", [b"", b"soon", b"nan", b"inf", b"\xff" * 100])
    async def test_a_damaged_file_is_reported_and_written_again(
        self,
        database: KeyDatabase,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
        content: bytes,
    ) -> None:
        create(database, lifetime_s=DAY_S)
        path = LatestTime(database.path.parent).path
        path.write_bytes(content)
        clock.now += DAY_S
        async with open_ring(database, clock):
            assert "is damaged" in caplog.text
            assert float(path.read_text(encoding="utf-8")) == clock.now

    def test_time_goes_on_while_the_clock_is_behind(self) -> None:
        wall, ticks = FakeClock(1000.0), FakeClock(5.0)
        now = ForwardClock(wall, ticks)
        assert now() == 1000
        wall.now, ticks.now = 400.0, 15.0  # set back by ten minutes, ten seconds later
        assert now() == 1010
        wall.now, ticks.now = 2000.0, 16.0
        assert now() == 2000
        wall.now, ticks.now = 2000.0, 17.0
        assert now() == 2001


class TestChanges:
    async def test_revoked_and_removed_keys_are_reported(
        self, database: KeyDatabase, ring: Keyring, ended: list[set[str]]
    ) -> None:
        ids = {name: create(database, name)[0].id for name in "abcd"}
        await ring.reload()
        database.revoke("a")
        database.remove("b")
        database.rotate("c", grace_s=0)  # its earlier token may be in the wrong hands
        database.rotate("d", grace_s=60)
        await ring.reload()
        assert ended == [{ids["a"], ids["b"], ids["c"]}]
        await ring.reload()
        assert len(ended) == 1

    async def test_a_token_whose_grace_has_ended_ends_no_calls(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock, ended: list[set[str]]
    ) -> None:
        create(database)
        database.rotate("ci", grace_s=60)
        await ring.reload()
        clock.now += 60
        database.rotate("ci", grace_s=60)  # which deletes the first token
        await ring.reload()
        assert ended == []

    async def test_ending_the_grace_early_ends_calls(
        self, database: KeyDatabase, ring: Keyring, ended: list[set[str]]
    ) -> None:
        key, _ = create(database)
        database.rotate("ci", grace_s=60)
        await ring.reload()
        database.rotate("ci", grace_s=0)
        await ring.reload()
        assert ended == [{key.id}]

    async def test_calls_of_an_expired_key_end_when_it_is_revoked(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock, ended: list[set[str]]
    ) -> None:
        key, _ = create(database, lifetime_s=1)
        await ring.reload()
        clock.now += 2
        database.revoke("ci")
        await ring.reload()
        assert ended == [{key.id}]

    async def test_calls_end_once_when_their_key_expires(
        self, database: KeyDatabase, ring: Keyring, clock: FakeClock, ended: list[set[str]]
    ) -> None:
        first, _ = create(database, "first", lifetime_s=10)
        second, _ = create(database, "second", lifetime_s=20)
        create(database, "third")
        await ring.reload()
        assert ended == []
        clock.now += 10
        for _ in range(2):
            await ring.reload()
            assert ended == [{first.id}]
        clock.now += 10
        await ring.reload()
        assert ended == [{first.id}, {second.id}]

    async def test_changes_are_looked_for_twice_a_second(self, database: KeyDatabase) -> None:
        waits: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

        async def sleep(seconds: float) -> None:
            assert seconds == POLL_S <= 0.5
            future = asyncio.get_running_loop().create_future()
            waits.put_nowait(future)
            await future

        ring = Keyring(database, on_revoked=lambda _: None, sleep=sleep)
        await ring.open()
        _, token = create(database)
        watch = asyncio.create_task(ring.watch())
        (await waits.get()).set_result(None)
        await waits.get()  # one look later
        assert ring.find(token)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await ring.close()

    async def test_a_cancelled_reload_loses_no_change(
        self, database: KeyDatabase, ring: Keyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, token = create(database)
        is_reading, go_on = threading.Event(), threading.Event()
        read = KeyReader.read

        def slow_read(self: KeyReader, known: tuple[int, int] | None) -> Any:
            change = read(self, known)
            is_reading.set()
            go_on.wait(60)
            return change

        monkeypatch.setattr(KeyReader, "read", slow_read)
        reload = asyncio.create_task(ring.reload())
        await asyncio.to_thread(is_reading.wait, 60)
        reload.cancel()
        await asyncio.gather(reload, return_exceptions=True)
        go_on.set()
        assert ring.find(token) is None
        await ring.reload()
        assert ring.find(token)

    async def test_two_processes_change_keys_while_one_looks_them_up(
        self, database: KeyDatabase, ended: list[set[str]]
    ) -> None:
        """Each change is seen, and a key that is not changed is found all the time."""
        stable, token = create(database, "stable")
        ring = Keyring(database, on_revoked=lambda ids: ended.append(set(ids)))
        await ring.open()
        watch = asyncio.create_task(ring.watch())
        directory = str(database.path.parent)
        processes = [start_changes(directory, name) for name in "ab"]
        changes: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(120):
                for process in processes:
                    reader = asyncio.create_task(asyncio.to_thread(process.communicate))
                    while not reader.done():
                        assert ring.find(token) == stable
                        await asyncio.sleep(0.002)
                    changes += map(json.loads, reader.result()[0].splitlines())
                    assert process.returncode == 0
            await ring.reload()
            assert len(changes) == 60
            for change in changes:
                found = ring.find(change["token"])
                assert (found and found.name) == change["name"]
        finally:
            for process in processes:
                process.kill()
                process.wait()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await ring.close()
        assert ring.problem is None
        assert stable.id not in set().union(*ended)


CHANGES = """
import json, sys, time
from pathlib import Path
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey

database = KeyDatabase(Path(sys.argv[1]), busy_timeout_s=60)
lines = []
for number in range(15):
    name = f"{sys.argv[2]}-{number}"
    key, first = database.create(NewKey(name=name))
    _, second = database.rotate(name, grace_s=1e6)
    found = name if number % 3 == 0 else None
    lines += [{"token": first, "name": found}, {"token": second, "name": found}]
    if number % 3 == 1:
        database.revoke(name)
    if number % 3 == 2:
        database.remove(name)
print("\\n".join(map(json.dumps, lines)))
"""


def start_changes(directory: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHANGES, directory, name],
        stdout=subprocess.PIPE,
        env=make_environment(),
        encoding="utf-8",
    )


class TestTrouble:
    async def test_a_missing_database_is_a_problem_and_keys_serve_on(
        self, database: KeyDatabase, ring: Keyring, ended: list[set[str]], tmp_path: Path
    ) -> None:
        _, token = create(database)
        await ring.reload()
        database.path.parent.rename(tmp_path / "away")
        await ring.reload()
        assert "cannot be read" in str(ring.problem)
        assert ring.find(token)
        assert ended == []
        (tmp_path / "away").rename(database.path.parent)
        database.revoke("ci")
        await ring.reload()
        assert ring.problem is None
        assert ring.find(token) is None
        assert len(ended) == 1

    @pytest.mark.skipif(os.name != "posix", reason="Windows keeps open files")
    async def test_a_deleted_file_is_not_replaced_by_an_empty_one(
        self, database: KeyDatabase, ring: Keyring, ended: list[set[str]]
    ) -> None:
        _, token = create(database)
        await ring.reload()
        database.path.unlink()
        await ring.reload()
        assert "the file is missing" in str(ring.problem)
        assert ring.find(token)
        assert ended == []
        assert not database.path.exists()

    async def test_the_first_key_is_reported_that_closes_an_open_gateway(
        self, database: KeyDatabase, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with open_ring(database, clock) as ring:
            assert not ring.requires_key
            for name in ("first", "second"):
                create(database, name)
                await ring.reload()
            assert ring.requires_key
        async with open_ring(database, clock):
            pass
        assert [record.message for record in caplog.records] == [
            "the first key was created: from now on, every request needs one"
        ]

    async def test_a_damaged_database_is_a_problem_and_keys_serve_on(
        self, database: KeyDatabase, ring: Keyring, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, token = create(database)
        await ring.reload()
        with contextlib.closing(database.connect()) as db:
            db.execute("update keys set facts = '{'")
        for _ in range(3):
            await ring.reload()
        assert "damaged" in str(ring.problem)
        assert ring.find(token)
        messages = [record.message for record in caplog.records]
        assert len([text for text in messages if "not noticed" in text]) == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
    async def test_a_foreign_file_is_a_problem_and_keys_serve_on(
        self, database: KeyDatabase, ring: Keyring, tmp_path: Path
    ) -> None:
        _, token = create(database)
        await ring.reload()
        text = tmp_path / "text"
        text.write_text("mine " * 1000, encoding="utf-8")
        text.replace(database.path)
        await ring.reload()
        assert "not a database of keys" in str(ring.problem)
        assert ring.find(token)
        assert database.path.read_text(encoding="utf-8").startswith("mine ")

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
    async def test_another_database_in_its_place_is_noticed(
        self, database: KeyDatabase, ring: Keyring, tmp_path: Path
    ) -> None:
        _, token = create(database)
        await ring.reload()
        database.path.parent.rename(tmp_path / "away")
        other, other_token = create(database, "other")
        await ring.reload()
        assert ring.keys == (other,)
        assert ring.find(token) is None
        assert ring.find(other_token) == other  # with its own pepper
        assert ring.problem is None

    async def test_a_lost_pepper_is_a_problem_and_keys_serve_on(
        self, database: KeyDatabase, ring: Keyring
    ) -> None:
        _, token = create(database)
        await ring.reload()
        database.pepper_file.unlink()
        with contextlib.closing(database.connect()) as db:
            db.execute("update keys set name = name")
        await ring.reload()
        assert "pepper" in str(ring.problem)
        assert ring.find(token)

    async def test_a_database_that_cannot_be_opened_stops_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "gateway").write_text("mine", encoding="utf-8")
        ring = Keyring(KeyDatabase(tmp_path / "gateway"), on_revoked=lambda _: None)
        with pytest.raises(KeyStorageFailed):
            await ring.open()
        await ring.close()
