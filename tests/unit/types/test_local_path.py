"""Paths and text from the command line and the environment."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api.types.local_path import absolute_path, decode_system_text

if TYPE_CHECKING:
    from pathlib import Path

latin = pytest.mark.skipif(sys.platform != "linux", reason="names of other bytes are Linux's alone")


@latin
def test_a_working_directory_must_be_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / os.fsdecode(b"d\xe9")
    directory.mkdir()
    monkeypatch.chdir(directory)
    with pytest.raises(ValueError, match=r"the name of its directory, '.*d\\udce9', is not valid"):
        absolute_path("out.jsonl")
    assert absolute_path("../out.jsonl") == tmp_path / "out.jsonl"


@latin
def test_an_ascii_locale_is_reported_as_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = b"caf\xc3\xa9".decode("ascii", "surrogateescape")
    assert decode_system_text(text) == "caf\u00e9"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ValueError, match="the encoding of this locale, ascii: set PYTHONUTF8=1"):
        absolute_path(text)


@latin
def test_text_must_be_utf8() -> None:
    with pytest.raises(ValueError, match="codec"):
        decode_system_text("caf\udce9")
    with pytest.raises(ValueError, match="its name is not valid UTF-8"):
        absolute_path("caf\udce9")
