"""`engine logs`: the end of a log, and what is added to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import engine
from foundry_api.cli.engine import find_log, follow_log, read_last_lines
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("", 3, []),
        ("a\nb\nc\n", 2, ["b", "c"]),
        ("a\nb\nc", 2, ["b", "c"]),
        ("a\nb\n", 5, ["a", "b"]),
        ("a\r\nb\r\n", 1, ["b"]),
        ("a\n", 0, []),
        ("x" * 50 + "\nshort\n", 1, ["short"]),
    ],
)
@pytest.mark.parametrize("block", [4, 64])
def test_the_last_lines(  # noqa: PLR0917 - parameters of the test
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    count: int,
    expected: list[str],
    block: int,
) -> None:
    monkeypatch.setattr(engine, "BLOCK_BYTES", block)
    path = tmp_path / "host.log"
    path.write_bytes(text.encode())
    assert read_last_lines(path, count) == expected


def test_a_log_without_line_ends_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BLOCK_BYTES", 10)
    monkeypatch.setattr(engine, "MAX_BYTES", 30)
    path = tmp_path / "host.log"
    path.write_bytes(b"x" * 1000)
    assert read_last_lines(path, 1) == ["x" * 30]


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def test_new_lines_are_shown_and_the_log_of_the_next_engine(tmp_path: Path) -> None:
    first, second = tmp_path / "host-1.log", tmp_path / "host-2.log"
    first.write_text("old\n", encoding="utf-8")
    newest = [first]
    steps: list[Callable[[], object]] = [
        lambda: append(first, "one\nhal"),
        lambda: append(first, "f\n"),
        lambda: (append(second, "two\n"), newest.append(second)),
    ]
    shown: list[str] = []

    def sleep(_: float) -> None:
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    with pytest.raises(KeyboardInterrupt):
        follow_log(first, shown.append, lambda: newest[-1], sleep)
    assert shown == ["one", "half", f"==> {second} <==", "two"]


def test_the_newest_log_is_found(tmp_path: Path) -> None:
    paths = Paths.from_home(tmp_path)
    assert find_log(paths) is None
    paths.logs.mkdir()
    for name in ("host-20260101T1.log", "host-20260102T1.log", "foundry_local_2026-01-01.log"):
        (paths.logs / name).touch()
    found = find_log(paths), find_log(paths, native=True)
    assert [path and path.name for path in found] == [
        "host-20260102T1.log",
        "foundry_local_2026-01-01.log",
    ]
