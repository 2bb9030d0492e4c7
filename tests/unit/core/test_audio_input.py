"""Recordings from a pipe."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from foundry_api.core import transcriptions
from foundry_api.core.transcriptions import AudioInput
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")


def pipe(directory: Path, content: bytes) -> Path:
    path = directory / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(content,)).start()
    return path


async def test_pipe_is_read_once_into_a_temporary_file(tmp_path: Path) -> None:
    async with AudioInput(pipe(tmp_path, b"RIFF")) as recording:
        path = await recording.get_path()
        assert await recording.get_path() == path
        assert await AudioInput(path).read_content() == b"RIFF"
        assert (await recording.read_content(), recording.name) == (b"RIFF", "recording")
    with pytest.raises(InvalidRequest, match="is not there"):
        AudioInput(path)


@pytest.mark.parametrize(("content", "why"), [(b"", "is empty"), (b"RIFFRIFF", "more than the 4")])
async def test_empty_or_too_large_pipe_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, why: str
) -> None:
    monkeypatch.setattr(transcriptions, "MAX_UPLOAD_BYTES", 4)
    with pytest.raises(InvalidRequest, match=why):
        await AudioInput(pipe(tmp_path, content)).get_path()
