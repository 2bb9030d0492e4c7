"""The database of keys on real files, also with several processes, full disks and kills."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from foundry_api.gateway.keys import database as database_module
from foundry_api.gateway.keys.clock import LatestTime
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.errors import KeyNotFound, KeyStorageFailed
from foundry_api.gateway.keys.keyring import Keyring
from foundry_api.gateway.keys.token import TokenHasher
from foundry_api.gateway.keys.types import ApiKey, KeyChanges, Limit
from foundry_api.types.errors import ConfigurationError, FoundryError, InvalidRequest
from gateway.keys.helpers import DAY_S, START, FakeClock, create
from support.cli_program import make_environment

if TYPE_CHECKING:
    from pathlib import Path

PEPPER = "0123456789abcdef" * 4


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> KeyDatabase:
    return KeyDatabase(tmp_path / "gateway", wall_clock=clock, busy_timeout_s=0.05)


def find_all(database: KeyDatabase, *tokens: str, now: float = START) -> list[str | None]:
    """Return the name of each token's key, as a gateway that starts now finds it."""

    async def find() -> list[str | None]:
        ring = Keyring(database, on_revoked=lambda _: None, wall_clock=lambda: now)
        await ring.open()
        found = [ring.find(token) for token in tokens]
        await ring.close()
        LatestTime(database.path.parent).path.unlink(missing_ok=True)  # as if it had never started
        return [key and key.name for key in found]

    return asyncio.run(find())


def read_all_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


class TestChanges:
    def test_a_new_key_has_what_was_asked_for(self, database: KeyDatabase) -> None:
        key, token = create(
            database,
            scopes=frozenset({"inference", "metrics"}),
            models=frozenset({"demo"}),
            lifetime_s=90 * DAY_S,
            rate=Limit(60, "m"),
            tokens=(Limit(100_000, "d"),),
            parallel=4,
            weight=2.0,
        )
        assert key == ApiKey(
            id=key.id,
            name="ci",
            scopes=frozenset({"inference", "metrics"}),
            models=frozenset({"demo"}),
            created_at=START,
            expires_at=START + 90 * DAY_S,
            rate=Limit(60, "m"),
            tokens=(Limit(100_000, "d"),),
            parallel=4,
            weight=2.0,
        )
        assert token.startswith(f"fk_{key.id}_")
        assert database.list() == (key,)
        assert database.get(key.id) == database.get("ci") == key
        assert find_all(database, token) == ["ci"]

    def test_a_name_is_unique(self, database: KeyDatabase) -> None:
        key, _ = create(database)
        for name in ("ci", key.id):
            with pytest.raises(InvalidRequest, match="the name of another key"):
                create(database, name)
        assert len(database.list()) == 1

    def test_a_new_id_is_neither_an_id_nor_a_name(
        self, database: KeyDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, _ = create(database, "00000000")
        ids = iter([first.id, "00000000", "11111111"])
        monkeypatch.setattr(database_module, "make_id", lambda: next(ids))
        assert create(database, "other")[0].id == "11111111"

    def test_a_rotation_leaves_the_earlier_token_for_a_while(
        self, database: KeyDatabase, clock: FakeClock
    ) -> None:
        _, first = create(database)
        key, second = database.rotate("ci", grace_s=DAY_S)
        assert key.grace_until == START + DAY_S
        assert find_all(database, first, second) == ["ci", "ci"]
        assert find_all(database, first, second, now=START + DAY_S) == [None, "ci"]
        clock.now += DAY_S / 2
        _, third = database.rotate("ci", grace_s=DAY_S)
        assert find_all(database, first, second, third) == ["ci", "ci", "ci"]
        ends = START + DAY_S  # the second rotation does not extend the first
        assert find_all(database, first, second, third, now=ends) == [None, "ci", "ci"]

    def test_a_rotation_without_grace_ends_all_earlier_tokens(self, database: KeyDatabase) -> None:
        _, first = create(database)
        _, second = database.rotate("ci", grace_s=DAY_S)
        key, third = database.rotate("ci", grace_s=0)
        assert key.grace_until is None
        assert find_all(database, first, second, third) == [None, None, "ci"]

    def test_earlier_tokens_are_limited_in_number(self, database: KeyDatabase) -> None:
        create(database)
        for _ in range(database_module.MAX_EARLIER_TOKENS):
            _, last = database.rotate("ci", grace_s=DAY_S)
        with pytest.raises(InvalidRequest, match="earlier tokens"):
            database.rotate("ci", grace_s=DAY_S)
        assert find_all(database, last) == ["ci"]
        database.rotate("ci", grace_s=0)

    def test_a_revoked_key_stays_in_the_list(self, database: KeyDatabase, clock: FakeClock) -> None:
        _, first = create(database)
        _, second = database.rotate("ci", grace_s=DAY_S)
        key = database.revoke("ci")
        assert (key.revoked_at, key.grace_until) == (START, None)
        clock.now += 1
        assert database.revoke("ci") == key
        assert database.list() == (key,)
        assert find_all(database, first, second) == [None, None]
        with closing(database.connect()) as db:
            assert db.execute("select count(*) from digests").fetchone() == (0,)

    def test_a_removed_key_is_gone_and_its_name_free(self, database: KeyDatabase) -> None:
        _, token = create(database)
        database.remove("ci")
        assert database.list() == ()
        _, other = create(database)
        assert find_all(database, token, other) == [None, "ci"]

    def test_a_change_leaves_the_token_and_the_rest(
        self, database: KeyDatabase, clock: FakeClock
    ) -> None:
        key, token = create(database, rate=Limit(60, "m"), lifetime_s=DAY_S, parallel=4)
        clock.now += 60
        changes = KeyChanges(rate=Limit(90, "m"), lifetime_s=2 * DAY_S, parallel=None)
        changed = database.update("ci", changes)
        assert changed == database.get("ci")
        assert changed == structs.replace(
            key, rate=Limit(90, "m"), expires_at=clock.now + 2 * DAY_S, parallel=None
        )
        assert find_all(database, token, now=START + DAY_S) == ["ci"]
        assert database.update("ci", KeyChanges(lifetime_s=None)).expires_at is None

    def test_revoked_and_expired_keys_are_neither_rotated_nor_changed(
        self, database: KeyDatabase, clock: FakeClock
    ) -> None:
        create(database, "a", lifetime_s=DAY_S)
        create(database, "b")
        database.revoke("b")
        clock.now += DAY_S
        for name, state in (("a", "expired"), ("b", "revoked")):
            assert database.get(name).get_state(clock.now) == state
            with pytest.raises(InvalidRequest, match=f"'{name}' is {state}"):
                database.rotate(name, grace_s=0)
            with pytest.raises(InvalidRequest, match=f"'{name}' is {state}"):
                database.update(name, KeyChanges(lifetime_s=None))

    @pytest.mark.parametrize("change", ["get", "revoke", "remove", "rotate", "update"])
    def test_an_unknown_key(self, database: KeyDatabase, change: str) -> None:
        create(database)
        options: dict[str, Any] = {
            "rotate": {"grace_s": 0.0},
            "update": {"changes": KeyChanges(weight=2.0)},
        }
        with pytest.raises(KeyNotFound, match="'nobody'"):
            getattr(database, change)("nobody", **options.get(change, {}))

    def test_reading_creates_nothing(self, database: KeyDatabase) -> None:
        assert database.list() == ()
        with pytest.raises(KeyNotFound):
            database.get("ci")
        assert not database.path.parent.exists()


class TestSecrets:
    def test_p18_no_token_is_in_a_file_a_key_or_an_error(self, database: KeyDatabase) -> None:
        key, first = create(database)
        rotated, second = database.rotate("ci", grace_s=60)
        with pytest.raises(KeyNotFound) as raised:
            database.get(first)
        seen = f"{key!r}{rotated!r}{raised.value}".encode() + read_all_bytes(database.path.parent)
        for token in (first, second):
            assert token[-51:-8].encode() not in seen  # its secret part

    def test_p17_a_key_shows_no_digest(self, database: KeyDatabase) -> None:
        key, token = create(database)
        digest = TokenHasher(database.pepper_file.read_bytes().strip()).digest(token)
        assert digest in read_all_bytes(database.path.parent)
        assert digest.hex() not in repr(key)
        assert repr(digest) not in repr(key)

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
    def test_files_are_private(self, database: KeyDatabase) -> None:
        umask = os.umask(0)
        try:
            create(database)
            with closing(database.connect()) as db:
                db.execute("begin immediate")  # so that the side files are there as well
                files = list(database.path.parent.iterdir())
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
        finally:
            os.umask(umask)
        assert modes.keys() >= {"keys.db", "keys.db-wal", "keys.pepper", "keys.db.lock"}
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE(database.path.parent.stat().st_mode) == 0o700

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
    def test_files_that_others_can_read_become_private(self, database: KeyDatabase) -> None:
        create(database)
        for path in (database.path, database.pepper_file):
            path.chmod(0o644)
        create(database, "other")
        for path in (database.path, database.pepper_file):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.skipif(os.name != "nt", reason="the twin of the modes on POSIX")
    def test_files_are_private_on_windows(self, database: KeyDatabase) -> None:
        """They inherit the permissions of the user's profile, in which the directory is."""
        create(database)
        for path in (database.path, database.pepper_file):
            listed = subprocess.run(
                ["icacls", path],  # noqa: S607 - a program of Windows
                capture_output=True,
                check=True,
                encoding="utf-8",
            ).stdout
            assert "Everyone" not in listed
            assert "BUILTIN\\Users" not in listed


class TestPepper:
    def test_a_file_of_the_user_is_used_and_left_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text(f"{PEPPER}\r\n", encoding="utf-8")
        file.chmod(0o640)
        mode = file.stat().st_mode
        database = KeyDatabase(tmp_path / "gateway", pepper_file=file)
        _, token = create(database)
        assert find_all(database, token) == ["ci"]
        assert file.stat().st_mode == mode
        assert not (tmp_path / "gateway" / "keys.pepper").exists()
        file.write_text(PEPPER, encoding="utf-8")  # without the newline it is the same
        assert find_all(database, token) == ["ci"]

    @pytest.mark.parametrize("content", [None, "", "\n"])
    def test_a_file_of_the_user_is_not_created(self, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "secret"
        if content is not None:
            file.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigurationError, match="secret is missing or empty"):
            create(KeyDatabase(tmp_path / "gateway", pepper_file=file))
        assert file.exists() == (content is not None)

    @pytest.mark.parametrize("content", ["short", "x" * 5000])
    def test_a_file_that_is_no_pepper(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "secret"
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigurationError, match="is not a pepper") as raised:
            create(KeyDatabase(tmp_path / "gateway", pepper_file=file))
        assert content not in str(raised.value)

    def test_a_lost_pepper_is_not_replaced_while_there_are_keys(
        self, database: KeyDatabase
    ) -> None:
        _, token = create(database)
        backup = database.pepper_file.read_bytes()
        database.pepper_file.unlink()
        for use in (lambda: find_all(database), lambda: create(database, "other")):
            with pytest.raises(ConfigurationError, match="is missing or empty"):
                use()
        assert not database.pepper_file.exists()
        database.pepper_file.write_bytes(backup)
        assert find_all(database, token) == ["ci"]

    def test_another_pepper_is_refused_while_there_are_keys(
        self, database: KeyDatabase, tmp_path: Path
    ) -> None:
        _, token = create(database)
        other = tmp_path / "other"
        other.write_text(PEPPER, encoding="utf-8")
        with_other = KeyDatabase(database.path.parent, pepper_file=other)
        with pytest.raises(ConfigurationError, match="is not that of the keys"):
            find_all(with_other, token)
        database.remove("ci")
        _, token = create(with_other)
        assert find_all(with_other, token) == ["ci"]

    def test_keys_can_be_revoked_without_it(self, database: KeyDatabase) -> None:
        create(database)
        database.pepper_file.unlink()
        assert database.revoke("ci").revoked_at


class TestTrouble:
    def test_a_locked_database(self, database: KeyDatabase) -> None:
        _, token = create(database)
        with closing(database.connect()) as other:
            other.execute("begin immediate")
            with pytest.raises(KeyStorageFailed, match="another process keeps it locked"):
                create(database, "other")
            assert [key.name for key in database.list()] == ["ci"]
            assert find_all(database, token) == ["ci"]

    def test_a_file_of_another_program_is_left_alone(self, database: KeyDatabase) -> None:
        database.path.parent.mkdir()
        with closing(sqlite3.connect(database.path)) as mine:
            mine.execute("create table precious (x)")
        before = database.path.read_bytes()
        for use in (database.list, lambda: create(database)):
            with pytest.raises(ConfigurationError, match="not a database of keys"):
                use()
        assert database.path.read_bytes() == before
        assert [path.name for path in database.path.parent.iterdir()] == ["keys.db"]

    def test_a_file_in_place_of_the_directory(self, database: KeyDatabase) -> None:
        database.path.parent.write_text("mine", encoding="utf-8")
        with pytest.raises(KeyStorageFailed):
            create(database)
        assert database.path.parent.read_text(encoding="utf-8") == "mine"

    @pytest.mark.parametrize(
        "damage",
        [
            "update keys set facts = '{}'",
            "update keys set facts = x'ff'",
            "update keys set facts = replace(facts, '\"inference\"', '\"root\"')",
            "update keys set id = 'other'",
            "update digests set key_id = 'nobody'",
            "update digests set digest = 'text'",
            "drop table digests",
        ],
    )
    def test_a_damaged_key_is_an_error_and_nothing_is_deleted(
        self, database: KeyDatabase, damage: str
    ) -> None:
        create(database)
        with closing(database.connect()) as db:
            db.execute(damage)
        before = read_all_bytes(database.path.parent)
        with pytest.raises(KeyStorageFailed, match="damaged"):
            find_all(database)
        assert read_all_bytes(database.path.parent) == before

    def test_random_damage_never_opens_a_door(self, database: KeyDatabase, tmp_path: Path) -> None:
        """Each outcome is one of our errors, or the keys as they were."""
        _, token = create(database, models=frozenset({"demo"}), lifetime_s=DAY_S)
        key = database.get("ci")
        database.revoke(create(database, "gone")[0].id)
        draw = random.Random(7)  # noqa: S311 - repeatable on purpose
        content = database.path.read_bytes()
        for number in range(150):
            copy = KeyDatabase(tmp_path / str(number), busy_timeout_s=0.05)
            shutil.copytree(database.path.parent, copy.path.parent)
            damaged = bytearray(content)
            for _ in range(draw.choice((1, 1, 40))):
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            copy.path.write_bytes(damaged)
            try:
                found = find_all(copy, token)
                keys = copy.list()
            except FoundryError:
                pass
            else:
                assert found in ([None], ["ci"])
                assert len(keys) <= 2
            shutil.rmtree(copy.path.parent)
        assert database.get("ci") == key


SCRIPT_HEAD = """
import os, sys
from pathlib import Path
from foundry_api.gateway.keys import database as module
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.errors import KeyStorageFailed
from foundry_api.gateway.keys.types import NewKey

database = KeyDatabase(Path(sys.argv[1]))
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT_HEAD + script, *arguments],
        stdout=subprocess.PIPE,
        env=make_environment(),
        encoding="utf-8",
    )


DIES = """
point = sys.argv[2]
original = getattr(module, point)

def run_and_die(*arguments):
    original(*arguments)
    os._exit(9)

setattr(module, point, run_and_die)
if sys.argv[3] == "create":
    database.create(NewKey(name="new"))
else:
    database.rotate("ci", grace_s=60)
"""


class TestProcesses:
    @pytest.mark.parametrize("point", ["create_pepper", "_insert_digest"])
    def test_killed_in_the_middle_of_the_first_create(
        self, database: KeyDatabase, point: str
    ) -> None:
        process = start(DIES, str(database.path.parent), point, "create")
        assert process.communicate(timeout=60) == ("", None)
        assert process.returncode == 9
        assert database.list() == ()
        _, token = create(database, "new")
        assert find_all(database, token) == ["new"]

    @pytest.mark.parametrize("point", ["_update_key", "_insert_digest"])
    def test_killed_in_the_middle_of_a_rotation(self, database: KeyDatabase, point: str) -> None:
        key, token = create(database)
        process = start(DIES, str(database.path.parent), point, "rotate")
        assert process.communicate(timeout=60) == ("", None)
        assert process.returncode == 9
        assert database.list() == (key,)
        assert find_all(database, token, now=START + DAY_S) == ["ci"]

    def test_killed_at_any_time(self, database: KeyDatabase) -> None:
        """Each token that was printed is valid afterwards."""
        script = """
for number in range(100_000):
    name = f"{os.getpid()}-{number}"
    print(name, database.create(NewKey(name=name))[1], flush=True)
    print(name, database.rotate(name, grace_s=1e9)[1], flush=True)
"""
        draw = random.Random(3)  # noqa: S311 - repeatable on purpose
        printed: list[tuple[str, str]] = []
        for _ in range(4):
            process = start(script, str(database.path.parent))
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(draw.randrange(1, 20))]
            process.kill()
            lines += process.communicate(timeout=60)[0].splitlines()
            pairs = [line.split() for line in lines]
            printed += [
                (pair[0], pair[1]) for pair in pairs if len(pair) == 2 and len(pair[1]) == 63
            ]
        assert find_all(database, *(token for _, token in printed)) == [name for name, _ in printed]
        with closing(database.connect()) as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)

    def test_two_processes_create_the_first_keys_at_once(self, database: KeyDatabase) -> None:
        """They agree on one pepper."""
        script = """
for number in range(10):
    name = f"{sys.argv[2]}-{number}"
    print(name, database.create(NewKey(name=name))[1])
"""
        processes = [start(script, str(database.path.parent), name) for name in "ab"]
        pairs = [
            line.split()
            for process in processes
            for line in process.communicate(timeout=120)[0].splitlines()
        ]
        assert len(pairs) == 20
        found = find_all(database, *(token for _, token in pairs))
        assert found == [name for name, _ in pairs]

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no RLIMIT_FSIZE")
    @pytest.mark.usefixtures("no_bytecode")
    def test_a_full_disk(self, database: KeyDatabase) -> None:
        script = """
import asyncio, resource
from foundry_api.gateway.keys.keyring import Keyring

async def main():
    _, token = database.create(NewKey(name="ci"))
    ring = Keyring(database, on_revoked=lambda ids: None)
    await ring.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        for number in range(100):
            database.create(NewKey(name=f"{number}"))
    except KeyStorageFailed as error:
        print(error)
    await ring.reload()
    print(ring.find(token).name)
    await ring.close()

asyncio.run(main())
"""
        process = start(script, str(database.path.parent))
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        error, name = output.splitlines()
        assert "cannot be changed" in error
        assert name == "ci"
        assert "ci" in {key.name for key in database.list()}
