"""Budgets survive a restart, a kill, and a file that cannot be written."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from foundry_api.core.residency import usage_db as model_usage
from foundry_api.gateway.health import list_problems
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.gateway.limits.accounts import StoredBudget
from foundry_api.gateway.limits.budgets import BudgetState
from foundry_api.gateway.limits.persistence import FORMAT, BudgetFile
from foundry_api.testing import FakeService
from foundry_api.types.errors import ConfigurationError
from gateway.keys.helpers import DAY_S, START, FakeClock
from gateway.serving import CHAT, call, make_body, serve

if TYPE_CHECKING:
    from pathlib import Path

KEY = NewKey(name="a", rate=Limit(100, "h"), tokens=(Limit(10_000, "d"),))
HELLO = make_body("say-hello", "fake")


def read_used(path: Path) -> dict[str, int]:
    """Return what a file contains, by the name of the budget."""
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as db:
        try:
            return dict(db.execute("select name, used from budgets").fetchall())
        except sqlite3.OperationalError:  # it is being created
            return {}


def make_rows(count: int, used: int = 1) -> list[StoredBudget]:
    return [
        StoredBudget(f"key{number}", "tokens/d", BudgetState(used, START + 100))
        for number in range(count)
    ]


async def test_a_restart_keeps_what_was_used(tmp_path: Path) -> None:
    async with FakeService() as upstream:
        async with serve(tmp_path, upstream.base_url, KEY) as served:
            assert (await call(served.http, HELLO))[0] == 200
            before = served.gateway.context.admission.accounts.export()
        async with serve(tmp_path, upstream.base_url) as served:
            after = served.gateway.context.admission.accounts.export()
    assert [row.state.used for row in after] == [row.state.used for row in before]
    assert all(row.state.used for row in after)


FORMER_ID = FORMAT.former_application_id


def make_former_file(path: Path, tables: str, *, is_in_wal: bool = False) -> None:
    """Make a file as before the budgets had an application id of their own."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            f"pragma application_id = {FORMER_ID}; pragma journal_mode = wal; {tables}"
        )
        db.execute(f"pragma user_version = {FORMAT.version}")
        if is_in_wal:  # as a gateway leaves it that is killed
            for name in (path.name, f"{path.name}-wal"):
                shutil.copy(path.with_name(name), path.with_name(f"copy-{name}"))
    if is_in_wal:
        for name in (path.name, f"{path.name}-wal"):
            path.with_name(f"copy-{name}").replace(path.with_name(name))


@pytest.mark.parametrize("is_in_wal", [False, True])
def test_a_file_with_the_former_application_id_is_read_and_gets_its_own(
    tmp_path: Path, *, is_in_wal: bool
) -> None:
    path = tmp_path / "usage.db"
    [row] = make_rows(1, used=7)
    insert = f"insert into budgets values ('key0', 'tokens/d', 7, {START + 100.0});"  # noqa: S608 - constants
    make_former_file(path, FORMAT.schema + insert, is_in_wal=is_in_wal)
    for _ in range(2):
        file = BudgetFile(path, wall_clock=FakeClock())
        assert file.read() == [row]
        file.close()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("pragma application_id").fetchone() == (FORMAT.application_id,)


def test_a_file_of_the_models_that_were_used_is_not_one_of_budgets(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    make_former_file(path, model_usage.FORMAT.schema)
    assert model_usage.FORMAT.application_id == FORMER_ID
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="does not contain the budgets"):
        BudgetFile(path, wall_clock=FakeClock()).read()
    assert path.read_bytes() == before


async def test_a_clock_set_back_renews_no_budget(tmp_path: Path) -> None:
    """Not even if a start in between has dropped the budgets of the days before."""
    wall, clocks = FakeClock(), {"monotonic": FakeClock(0.0)}
    key = NewKey(name="a", tokens=(Limit(1, "d"),))
    headers = {"Authorization": f"Bearer {KeyDatabase(tmp_path).create(key)[1]}"}

    async def call_on(*moments: float) -> list[int]:
        statuses: list[int] = []
        async with serve(tmp_path, upstream.base_url, wall_clock=wall, **clocks) as served:
            for wall.now in moments:
                async with served.http.post(CHAT, json=HELLO, headers=headers) as response:
                    statuses.append(response.status)
        return statuses

    async with FakeService() as upstream:
        assert await call_on(START) == [200]
        assert await call_on(START + DAY_S) == [200]
        wall.now = START + 2 * DAY_S
        assert await call_on() == []
        wall.now = START
        assert await call_on(START, START + DAY_S) == [200, 429]


async def test_a_kill_loses_nothing_that_is_older_than_a_second(tmp_path: Path) -> None:
    directory = tmp_path / "gateway"
    _, token = KeyDatabase(directory).create(KEY)
    async with FakeService() as upstream:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            *(
                "-m",
                "foundry_api",
                "serve",
                "--port",
                "0",
                "--config",
                _write_config(tmp_path, upstream),
            ),
            stdout=subprocess.PIPE,
        )
        assert program.stdout is not None
        line = (await program.stdout.readline()).decode()
        url = line.split()[2].removesuffix("/v1.")
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(url, headers=headers) as http:
            async with http.post(CHAT, json=HELLO) as response:
                used = (await response.json())["usage"]["total_tokens"]
            path = directory / "usage.db"
            async with asyncio.timeout(60):
                while read_used(path) != {"requests/h": 1, "tokens/d": used}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            program.kill()
            await program.wait()
        async with serve(directory, upstream.base_url) as served:
            accounts = served.gateway.context.admission.accounts
            [account], now = accounts, accounts.clock()
            assert account.tokens["d"].get_level(now)[0] == 10_000 - used
            assert account.requests is not None
            assert account.requests.get_level(now)[0] == 99


async def test_calls_are_served_while_the_file_is_locked(tmp_path: Path) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, KEY) as served,
    ):
        context = served.gateway.context
        with closing(sqlite3.connect(tmp_path / "usage.db", isolation_level=None)) as other:
            other.execute("begin immediate")
            assert (await call(served.http, HELLO))[0] == 200
            await served.wait_until(lambda: context.saver.problem is not None)
            assert (await call(served.http, HELLO))[0] == 200
            assert any("cannot be stored" in problem for problem in list_problems(context))
            async with served.http.get("/readyz") as response:
                assert response.status == 503
            other.execute("rollback")
        await served.wait_until(lambda: context.saver.problem is None)
        assert list_problems(context) == []
        assert read_used(tmp_path / "usage.db")["requests/h"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
async def test_calls_are_served_while_the_keys_cannot_be_read(tmp_path: Path) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, KEY) as served,
    ):
        context = served.gateway.context
        path = tmp_path / "keys.db"
        path.rename(tmp_path / "away.db")
        await served.wait_until(lambda: context.keyring.problem is not None)
        assert (await call(served.http, HELLO))[0] == 200
        async with served.http.get("/readyz") as response:
            assert response.status == 503
        (tmp_path / "away.db").rename(path)
        await served.wait_until(lambda: context.keyring.problem is None)
        KeyDatabase(tmp_path).revoke("a")
        await served.wait_until(lambda: context.keyring.keys[0].get_state(0) != "active")
        assert (await call(served.http, HELLO))[0] == 401


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
async def test_a_file_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, KEY) as served,
    ):
        path = tmp_path / "usage.db"
        await call(served.http, HELLO)
        await served.wait_until(lambda: read_used(path).get("requests/h") == 1)
        path.unlink()
        await call(served.http, HELLO)
        await served.wait_until(lambda: read_used(path).get("requests/h") == 2)


def test_what_could_not_be_stored_is_stored_with_the_next(tmp_path: Path) -> None:
    file = BudgetFile(tmp_path / "usage.db", wall_clock=FakeClock())
    file.read()
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(sqlite3.OperationalError):
            file.write(make_rows(3))
        other.execute("rollback")
    file.write([])
    assert len(file.read()) == 3
    file.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames and removes no open file")
def test_another_file_gets_all_that_was_stored(tmp_path: Path) -> None:
    file = BudgetFile(tmp_path / "usage.db", wall_clock=FakeClock())
    file.read()
    file.write(make_rows(3))
    file.path.unlink()
    file.write(make_rows(1, used=2))
    file.close()
    with closing(BudgetFile(file.path, wall_clock=FakeClock())) as reader:
        assert [row.state.used for row in reader.read()] == [2, 1, 1]


def test_periods_that_have_ended_are_dropped(tmp_path: Path) -> None:
    clock = FakeClock()
    file = BudgetFile(tmp_path / "usage.db", wall_clock=clock)
    file.read()
    file.write(make_rows(3))
    clock.now += 100
    assert file.read() == []
    file.close()


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + b"x" * 5000, b"My notes. " * 100])
def test_a_file_of_another_program_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "usage.db"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="does not contain the budgets"):
        BudgetFile(path).read()
    assert path.read_bytes() == content


def test_a_damaged_file_is_renamed(tmp_path: Path) -> None:
    file = BudgetFile(tmp_path / "usage.db", wall_clock=FakeClock())
    file.read()
    file.write(make_rows(2_000))
    file.close()
    damaged = bytearray(file.path.read_bytes())
    damaged[4096:-4096] = b"\xff" * (len(damaged) - 8192)
    file.path.write_bytes(damaged)
    assert file.read() == []
    assert (tmp_path / "usage.db.damaged-1").read_bytes() == damaged
    file.write([])  # what was known is stored anew
    file.close()
    with closing(BudgetFile(file.path, wall_clock=FakeClock())) as reader:
        assert len(reader.read()) == 2_000


def _write_config(directory: Path, upstream: Any) -> str:
    path = directory / "gateway.toml"
    gateway = (directory / "gateway").as_posix()
    path.write_text(
        f'directory = "{gateway}"\nbase_url = "{upstream.base_url}"\n', encoding="utf-8"
    )
    return str(path)
