"""Results are written in groups: none waits for long, and none is lost."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.batch.result_store import StdoutStore
from foundry_api.batch.runner import GROUP_BYTES, GROUP_LINES, GROUP_S, GroupCommitWriter
from foundry_api.types.errors import BatchStorageFailed
from support.journal_factories import make_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.batch.types import BatchLineResult
    from support.virtual_time import Run


class Disk:
    """Records groups after a delay, and fails the first few times."""

    def __init__(self, *, failures: int = 0, takes_s: float = 0.0) -> None:
        self.groups: list[list[int]] = []
        self.failures = failures
        self.takes_s = takes_s

    async def record(self, group: Sequence[BatchLineResult]) -> None:
        await asyncio.sleep(self.takes_s)
        if self.failures:
            self.failures -= 1
            raise BatchStorageFailed("the disk is full")
        self.groups.append([result.index for result in group])


def test_lines_that_finish_together_are_written_together(run: Run) -> None:
    async def test() -> None:
        disk = Disk()
        writer = GroupCommitWriter(disk.record)
        running = asyncio.create_task(writer.run())
        for index in range(3):
            await writer.add(make_answer(index))
        assert disk.groups == []
        await asyncio.sleep(GROUP_S * 1.01)
        assert disk.groups == [[0, 1, 2]]
        await writer.add(make_answer(3))
        await asyncio.sleep(GROUP_S * 1.01)
        assert disk.groups == [[0, 1, 2], [3]]
        running.cancel()

    run(test())


@pytest.mark.parametrize(("size", "lines"), [(0, GROUP_LINES), (GROUP_BYTES // 4, 4)])
def test_full_group_is_written_at_once(size: int, lines: int, run: Run) -> None:
    async def test() -> None:
        disk = Disk()
        writer = GroupCommitWriter(disk.record)
        for index in range(lines):
            assert disk.groups == []
            await writer.add(make_answer(index, "x" * size))
        assert disk.groups == [list(range(lines))]

    run(test())


def test_failed_group_is_written_with_the_next_one(run: Run) -> None:
    async def test() -> None:
        disk = Disk(failures=1)
        writer = GroupCommitWriter(disk.record)
        await writer.add(make_answer(0))
        with pytest.raises(BatchStorageFailed):
            await writer.flush()
        await writer.add(make_answer(1))
        await writer.flush()
        await writer.flush()
        assert disk.groups == [[0, 1]]

    run(test())


def test_group_of_a_cancelled_write_is_written_at_the_end(run: Run) -> None:
    async def test() -> None:
        disk = Disk(takes_s=1.0)
        writer = GroupCommitWriter(disk.record)
        running = asyncio.create_task(writer.run())
        await writer.add(make_answer(0))
        await asyncio.sleep(GROUP_S + 0.5)  # it is being written
        await writer.add(make_answer(1))
        running.cancel()
        await asyncio.wait([running])
        await writer.flush()
        assert disk.groups == [[0, 1]]

    run(test())


def test_slow_disk_makes_adding_lines_wait(run: Run) -> None:
    async def test() -> None:
        disk = Disk(takes_s=10.0)
        writer = GroupCommitWriter(disk.record)
        for index in range(GROUP_LINES):
            await writer.add(make_answer(index))
        assert asyncio.get_running_loop().time() == pytest.approx(10.0)

    run(test())


class Pipe(io.BytesIO):
    """A stream that raises an error on writing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, data: object, /) -> int:
        del data
        raise self.error


def test_stream_receives_each_line_and_stores_nothing() -> None:
    stream = io.BytesIO()
    store = StdoutStore(stream)
    assert store.record([make_answer(0), make_answer(1)]) == 2
    assert stream.getvalue() == make_answer(0).output + b"\n" + make_answer(1).output + b"\n"
    assert (store.get_finished(0, 9), store.claim(3), store.heartbeat(b"")) == ({}, True, None)
    assert (store.is_complete(2), store.is_complete(3)) == (True, False)


def test_full_disk_is_reported_and_closed_pipe_is_not() -> None:
    with pytest.raises(BatchStorageFailed, match="standard output cannot be written"):
        StdoutStore(Pipe(OSError(28, "No space left on device"))).record([make_answer(0)])
    with pytest.raises(BrokenPipeError):
        StdoutStore(Pipe(BrokenPipeError())).record([make_answer(0)])


def test_terminal_output_escapes_control_characters() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    text = "\x9b31m\u202eover \u00fc\u2028"
    line = msgspec.json.encode({"text": text})
    finished = msgspec.structs.replace(make_answer(0), output=line)
    StdoutStore(stream := Terminal()).record([finished])
    shown = stream.getvalue().decode()
    assert msgspec.json.decode(shown) == {"text": text}
    assert not set(shown) & set("\x9b\u202e\u2028")
    assert "\u00fc" in shown
