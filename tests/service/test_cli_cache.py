"""`foundry-api cache` as a separate process."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from foundry_api import SqliteCache
from support.cli_program import run

if TYPE_CHECKING:
    from pathlib import Path


async def fill(path: Path) -> None:
    cache = SqliteCache(path)
    for key in ("a", "b"):
        await cache.put(key, b"x" * 3000, model="demo:1")
    await cache.put("c", b"x" * 30, model="other:1")
    await cache.get("a")
    await cache.get("d")
    await cache.close()


def test_stats_and_clear(own_home: Path) -> None:
    path = own_home / "cache" / "answers.db"
    asyncio.run(fill(path))
    finished = run("cache", "stats", home=own_home)
    assert finished.returncode == 0
    assert finished.stdout.splitlines() == [
        f"{path}  in use",
        "  answers  3, 6 KB",
        "  lookups  1 of 2 found (50%)",
        "  stored   3 in total, 0 evicted",
        "",
        "MODEL    ANSWERS  SIZE",
        "demo:1   2        6 KB",
        "other:1  1        31 B",
    ]
    facts = json.loads(run("cache", "stats", "--json", home=own_home).stdout)
    assert facts == {
        "file": str(path),
        "exists": True,
        "entries": 3,
        "bytes": 6033,
        "hits": 1,
        "misses": 1,
        "stores": 3,
        "evictions": 0,
        "models": [
            {"model": "demo:1", "entries": 2, "bytes": 6002},
            {"model": "other:1", "entries": 1, "bytes": 31},
        ],
    }
    assert run("cache", "clear", home=own_home).stdout == f"3 answers deleted from {path}.\n"
    cleared = run("cache", "clear", "--json", home=own_home)
    assert json.loads(cleared.stdout) == {"file": str(path), "cleared": 0}
    assert run("cache", home=own_home).stdout.startswith(f"{path}  empty\n")


def test_without_a_cache_no_file_is_created(own_home: Path) -> None:
    path = own_home / "cache" / "answers.db"
    finished = run("cache", home=own_home)
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"{path}  does not exist\n")
    assert "config set cache sqlite" in finished.stdout
    assert run("cache", "clear", home=own_home).stdout == f"There are no answers in {path}.\n"
    assert not path.exists()


def test_the_option_wins_over_the_setting(tmp_path: Path) -> None:
    one, other = tmp_path / "one.db", tmp_path / "other.db"
    for variables, arguments, expected in (
        ({"FOUNDRY_CACHE": str(one)}, (), one),
        ({"FOUNDRY_CACHE": str(one)}, ("--file", str(other)), other),
    ):
        finished = run("cache", "stats", "--json", *arguments, **variables)
        assert json.loads(finished.stdout)["file"] == str(expected)


def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    with closing(sqlite3.connect(path)) as mine:
        mine.execute("create table precious (x)")
    before = path.read_bytes()
    for verb in ("stats", "clear"):
        refused = run("cache", verb, "--file", str(path))
        assert refused.returncode == 2
        assert "it is a database of another program" in refused.stderr
        assert "Name another file" in refused.stderr
    assert path.read_bytes() == before


def test_a_file_that_is_no_cache_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("my thesis", encoding="utf-8")
    path.chmod(0o644)
    mode = path.stat().st_mode
    for arguments in (("clear",), ("stats",), ("stats", "--json")):
        refused = run("cache", *arguments, "--file", str(path))
        assert refused.returncode == 2
        assert "it is not a database of this program" in refused.stdout + refused.stderr
    chat = ("chat", "--model", "demo", "--temperature", "0", "hi")
    answered = run(*chat, home=tmp_path / "home", FOUNDRY_CACHE=str(path))
    assert answered.returncode == 0
    assert f"the cache {path} cannot be used" in answered.stderr
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode) == ("my thesis", mode)
    assert [file.name for file in tmp_path.iterdir() if "thesis" in file.name] == ["thesis.txt"]


def test_stats_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    asyncio.run(fill(path))
    path.with_name("answers.db.lock").unlink()
    path.chmod(0o644)
    before = [(file, file.stat().st_mode, file.read_bytes()) for file in tmp_path.iterdir()]
    assert run("cache", "stats", "--file", str(path)).returncode == 0
    assert [(file, file.stat().st_mode, file.read_bytes()) for file in tmp_path.iterdir()] == before
