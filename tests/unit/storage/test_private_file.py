"""Private files."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import foundry_api
from foundry_api.monitor.store import SampleStore, read_samples
from foundry_api.storage import private_file
from foundry_api.storage.private_file import (
    create_file,
    remove_file,
    replace_atomically,
    replace_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("select * from samples").fetchall()
database.close()
"""


def test_a_new_file_is_private(tmp_path: Path) -> None:
    create_file(tmp_path / "secret")
    assert (tmp_path / "secret").read_bytes() == b""
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_an_existing_file_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine", encoding="utf-8")
    create_file(tmp_path / "notes")
    assert (tmp_path / "notes").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("looks", [create_file, read_samples])
def test_create_file_keeps_the_locks_of_this_process(
    tmp_path: Path, looks: Callable[[Path], Any]
) -> None:
    """Without them another process would delete the WAL as the last user of the database."""
    path = tmp_path / "health.db"
    with closing(SampleStore(path, keep_s=60)):
        looks(path)
        subprocess.run([sys.executable, "-c", LOOKS, path], check=True)
        assert path.with_name("health.db-wal").exists()


def test_a_durable_file_is_flushed_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "secret"
    seen: list[bool] = []
    flush = os.fsync

    def record(descriptor: int) -> None:
        seen.append(target.exists())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    replace_file(target, b"content")
    assert seen == []
    target.unlink()
    replace_file(target, b"content", durable=True)
    assert seen == ([False, True] if os.name == "posix" else [False])
    assert target.read_bytes() == b"content"


def test_a_file_that_is_open_is_replaced_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to replace an open file."""
    draft, target = tmp_path / "draft", tmp_path / "target"
    draft.write_bytes(b"new")
    waits: list[float] = []
    replace = type(draft).replace

    def refuse_three_times(path: Path, other: Path) -> Path:
        if len(waits) < 3:
            raise PermissionError(13, "Access is denied")
        return replace(path, other)

    monkeypatch.setattr(type(draft), "replace", refuse_three_times)
    with pytest.raises(PermissionError):
        replace_atomically(draft, target, patience_s=0.0, sleep=waits.append)
    assert waits == []
    replace_atomically(draft, target, patience_s=1.0, sleep=waits.append)
    assert len(waits) == 3
    assert target.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
@pytest.mark.parametrize("is_supported", [True, False])
def test_on_macos_a_durable_file_is_on_the_disk_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_supported: bool
) -> None:
    """There, fsync leaves it in the cache of the disk."""
    calls: list[str] = []

    def control(descriptor: int, command: int) -> None:
        assert (os.fstat(descriptor).st_size, command) == (7, 51)
        calls.append("fcntl")
        if not is_supported:
            raise OSError(45, "Operation not supported")

    monkeypatch.setattr(private_file, "_FULL_SYNC", 51)
    monkeypatch.setattr("fcntl.fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(private_file, "sync_directory", lambda _: None)
    replace_file(tmp_path / "secret", b"content", durable=True)
    assert calls == (["fcntl"] if is_supported else ["fcntl", "fsync"])


def test_a_file_that_is_open_is_removed_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above; the state file of the shared engine, which other programs read."""
    path = tmp_path / "state"
    path.touch()
    waits: list[float] = []
    unlink = type(path).unlink

    def refuse_twice(path: Path, *, missing_ok: bool = False) -> None:
        if len(waits) < 2:
            raise PermissionError(13, "The process cannot access the file")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(path), "unlink", refuse_twice)
    remove_file(path, sleep=waits.append)
    assert len(waits) == 2
    assert not path.exists()
    remove_file(path)


def test_every_rename_waits_for_programs_that_have_the_file_open() -> None:
    """`replace_atomically` is the only place that renames a file."""

    def is_rename(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"replace", "rename"}
            and len(node.args) == 1  # str.replace has two
            and not ast.unparse(node.func.value).endswith(("transcript", "structs"))
        )

    found = [
        f"{file.name}: {ast.unparse(node)}"
        for file in Path(foundry_api.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_bytes()))
        if is_rename(node)
    ]
    assert found == ["private_file.py: temporary.replace(target)"]
