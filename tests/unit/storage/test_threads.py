"""What a thread opens is closed again if nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, BinaryIO

import pytest

from foundry_api.storage.threads import finish_opening

if TYPE_CHECKING:
    from pathlib import Path


class SlowFile:
    """A file that is opened when it may be."""

    def __init__(self, path: Path) -> None:
        self.started, self.may_end = threading.Event(), threading.Event()
        self.opened: list[BinaryIO] = []
        self._path = path

    def open(self) -> BinaryIO:
        self.started.set()
        assert self.may_end.wait(30)
        self.opened.append(self._path.open("rb"))
        return self.opened[0]

    async def finish(self) -> BinaryIO:
        return await finish_opening(
            asyncio.to_thread(self.open), lambda file: asyncio.to_thread(file.close)
        )


async def test_it_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    slow = SlowFile(path)
    slow.may_end.set()
    with await slow.finish() as file:
        assert not file.closed


async def test_a_cancelled_caller_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    slow = SlowFile(path)
    task = asyncio.create_task(slow.finish())
    await asyncio.to_thread(slow.started.wait, 30)
    task.cancel()
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.opened[0].closed


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_what_cannot_be_opened_needs_no_closing(
    tmp_path: Path, *, is_cancelled: bool
) -> None:
    slow = SlowFile(tmp_path / "none")
    task = asyncio.create_task(slow.finish())
    await asyncio.to_thread(slow.started.wait, 30)
    if is_cancelled:
        task.cancel()
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError if is_cancelled else FileNotFoundError):
        await task
