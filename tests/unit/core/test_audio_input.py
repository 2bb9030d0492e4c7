"""A recording that comes out of a pipe."""

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


async def test_a_pipe_is_read_once_into_a_file_of_our_own(tmp_path: Path) -> None:
    async with AudioInput(pipe(tmp_path, b"RIFF")) as heard:
        made = await heard.get_path()
        assert await heard.get_path() == made
        assert await AudioInput(made).read_content() == b"RIFF"
        assert (await heard.read_content(), heard.name) == (b"RIFF", "recording")
    with pytest.raises(InvalidRequest, match="is not there"):
        AudioInput(made)


@pytest.mark.parametrize(("content", "why"), [(b"", "is empty"), (b"RIFFRIFF", "more than the 4")])
async def test_a_pipe_that_holds_nothing_or_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, why: str
) -> None:
    monkeypatch.setattr(transcriptions, "MAX_UPLOAD_BYTES", 4)
    with pytest.raises(InvalidRequest, match=why):
        await AudioInput(pipe(tmp_path, content)).get_path()
