"""Text files that the user attaches to a message."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.cli import text_file
from foundry_api.cli.text_file import TextFile, add_files, read_text_file
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_follows_the_prompt_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes("\ufeffone\r\ntwo\n".encode())
    file = read_text_file(str(tmp_path / "notes.txt"), "-a")
    assert file == TextFile("notes.txt", "one\ntwo\n")
    assert add_files("Sum up:", [file]) == "Sum up:\n\nnotes.txt:\n```\none\ntwo\n```"
    assert add_files("", [file]) == "notes.txt:\n```\none\ntwo\n```"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_text_of_windows_programs_is_read(tmp_path: Path, encoding: str) -> None:
    """`>` of Windows PowerShell writes UTF-16 with a mark and `\\r\\n`."""
    text = "日本 😀\r\n"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "notes.txt").write_bytes((mark + text).encode(encoding))
    assert read_text_file(str(tmp_path / "notes.txt"), "-a").text == "日本 😀\n"


def test_a_fence_is_longer_than_any_in_the_file() -> None:
    assert add_files("", [TextFile("a.md", "````\nx\n````")]).startswith("a.md:\n`````\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n", "is not text in UTF-8"),
        (b"a\0b", "contains NUL"),
        (b" \n", "is empty"),
        (b"x" * 101, "is longer than"),
    ],
)
def test_what_no_model_takes_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr(text_file, "MAX_BYTES", 100)
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=f"file.bin.* {message}"):
        read_text_file(str(path), "-a")


@pytest.mark.parametrize(
    ("name", "message"), [("missing.txt", "cannot be read"), (".", "is a directory")]
)
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_text_file(str(tmp_path / name), "-a")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has devices as files")
def test_a_device_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is a device"):
        read_text_file(os.devnull, "-a")
