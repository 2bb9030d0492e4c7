"""A batch over files with a scripted engine: which lines are answered, stored and written."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import stat
import sys
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from foundry_api.batch.engine import EngineState
from foundry_api.batch.job import BatchJob
from foundry_api.batch.journal import BLOCK_LINES, read_status, request_cancel
from foundry_api.batch.types import BatchOptions, InputOptions
from foundry_api.types.errors import (
    BatchCancelled,
    BatchError,
    BatchInputInvalid,
    BatchInUse,
    BatchMismatch,
    BatchStorageFailed,
    ServiceNotRunning,
)
from service.helpers import wait_until_async
from support.journal_factories import make_answer, make_failure, open_journal, read_lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator
    from pathlib import Path

    from foundry_api.batch.job import BatchSummary
    from foundry_api.batch.progress import BatchProgress
    from foundry_api.batch.types import BatchLineResult, WorkItem

    Does = Callable[[int], BatchLineResult | Exception | None]

LINES = 6


class Engine:
    """Returns `does(index)` for each line, raises it if it is an exception, drops None.

    The line `holds` is not answered before the engine is drained.
    """

    def __init__(self, does: Does = make_answer, *, holds: int | None = None) -> None:
        self.does = does
        self.holds = holds
        self.received: list[int] = []
        self.is_blocked, self.is_drained = asyncio.Event(), asyncio.Event()

    async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
        async for item in items:
            index = item.line.index
            self.received.append(index)
            if index == self.holds:
                self.is_blocked.set()
                await self.is_drained.wait()
            done = self.does(index)
            if isinstance(done, Exception):
                raise done
            if done is not None:
                yield type(done)(**{**fields(done), "digest": item.line.digest})
            if self.is_drained.is_set():
                return

    def drain(self) -> None:
        self.is_drained.set()

    def get_state(self) -> EngineState:
        return EngineState()


class SlowEngine(Engine):
    """An engine that does not finish the lines in flight when it is drained."""

    def __init__(self, *, holds: int) -> None:
        super().__init__(holds=holds)
        self.drain_requested = asyncio.Event()

    def drain(self) -> None:
        self.drain_requested.set()


def fields(done: BatchLineResult) -> dict[str, Any]:
    return {name: getattr(done, name) for name in done.__struct_fields__}


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"prompt {index}\n" for index in range(LINES)), encoding="utf-8")
    return BatchOptions(
        input=InputOptions(path=str(path)), output=str(tmp_path / "answers.jsonl"), ordered=True
    )


def answered(*indexes: int) -> list[bytes]:
    return [make_answer(index).output for index in indexes]


async def run_until_blocked(options: BatchOptions, engine: Engine) -> asyncio.Task[BatchSummary]:
    """Start a batch, and wait until a line is in flight that does not finish."""
    running = asyncio.create_task(BatchJob(options).run(engine))
    await engine.is_blocked.wait()
    return running


async def test_each_line_is_answered_once_and_written(
    options: BatchOptions, tmp_path: Path
) -> None:
    engine = Engine()
    reports: list[BatchProgress] = []
    summary = await BatchJob(options, on_progress=reports.append).run(engine)
    assert (summary.total, summary.done, summary.failed, summary.resumed) == (LINES, LINES, 0, 0)
    assert read_lines(tmp_path / "answers.jsonl") == answered(*range(LINES))
    assert engine.received == list(range(LINES))
    phases = [report.phase for report in reports]
    assert sorted(set(phases), key=phases.index) == ["running", "publishing"]
    assert reports[-1].finished == LINES


async def test_finished_lines_are_not_answered_again(options: BatchOptions) -> None:
    gives_up = Engine(lambda index: ServiceNotRunning("gone") if index == 4 else make_answer(index))
    with pytest.raises(ServiceNotRunning):
        await BatchJob(options).run(gives_up)
    assert read_status(options.directory).counts.done == 4, (
        "stored, though it had just been answered"
    )
    goes_on = Engine()
    summary = await BatchJob(options).run(goes_on)
    assert (goes_on.received, summary.resumed) == ([4, 5], 4)
    has_nothing_to_do = Engine()
    assert (await BatchJob(options).run(has_nothing_to_do)).resumed == LINES
    assert has_nothing_to_do.received == []


async def test_failed_lines_are_retried_only_on_request(
    options: BatchOptions, tmp_path: Path
) -> None:
    def fails(index: int) -> BatchLineResult:
        return make_failure(index) if index in {1, 3} else make_answer(index)

    summary = await BatchJob(options).run(Engine(fails))
    assert (summary.done, summary.failed, summary.errors) == (4, 2, options.errors_path)
    assert read_lines(options.errors_path) == [make_failure(1).output, make_failure(3).output]
    engine = Engine()
    await BatchJob(options).run(engine)
    assert engine.received == []
    summary = await BatchJob(options, retry_failed=True).run(engine)
    assert (engine.received, summary.failed, summary.errors) == ([1, 3], 0, None)
    assert read_lines(tmp_path / "answers.jsonl") == answered(*range(LINES))


async def test_engine_that_loses_a_line_is_reported(options: BatchOptions) -> None:
    loses = Engine(lambda index: None if index == 2 else make_answer(index))
    with pytest.raises(BatchError, match="did not answer every line"):
        await BatchJob(options).run(loses)
    assert loses.received.count(2) == 2, "a second time, since the other lines were answered"
    assert read_status(options.directory).counts.done == LINES - 1


async def test_drained_batch_stores_lines_in_flight(options: BatchOptions) -> None:
    engine = Engine(holds=3)
    running = await run_until_blocked(options, engine)
    request_cancel(options.directory, "drain")
    with pytest.raises(BatchCancelled):
        await running
    assert read_status(options.directory).counts.done == 4
    goes_on = Engine()
    await BatchJob(options).run(goes_on)
    assert goes_on.received == [4, 5]


async def test_drain_completes_a_batch_with_its_last_line_in_flight(
    options: BatchOptions,
) -> None:
    engine = Engine(holds=LINES - 1)
    running = await run_until_blocked(options, engine)
    request_cancel(options.directory, "drain")
    assert (await running).done == LINES


async def test_stopped_batch_drops_lines_in_flight(options: BatchOptions) -> None:
    engine = Engine(holds=3)
    running = await run_until_blocked(options, engine)
    request_cancel(options.directory, "stop")
    with pytest.raises(BatchCancelled):
        await running
    assert read_status(options.directory).counts.done == 3


async def test_cancelled_batch_stores_its_answers(
    options: BatchOptions,
) -> None:
    engine = Engine(holds=3)
    running = await run_until_blocked(options, engine)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    status = read_status(options.directory)
    assert (status.counts.done, status.running) == (3, False)


async def test_runners_that_share_a_batch_write_one_output(
    options: BatchOptions, tmp_path: Path
) -> None:
    several = 9 * BLOCK_LINES + 7
    (tmp_path / "prompts.txt").write_text("hello\n" * several, encoding="utf-8")
    engines = [Engine(), Engine(), Engine()]
    jobs = [BatchJob(options, shared=True).run(engine) for engine in engines]
    for summary in await asyncio.gather(*jobs):
        assert (summary.done, summary.total) == (several, several)
    received = [index for engine in engines for index in engine.received]
    assert sorted(received) == list(range(several))
    assert read_lines(tmp_path / "answers.jsonl") == answered(*range(several))


async def test_runner_takes_over_the_blocks_of_another(
    options: BatchOptions,
) -> None:
    first, second = Engine(holds=3), Engine()
    running = asyncio.create_task(BatchJob(options, shared=True).run(first))
    await first.is_blocked.wait()
    waits = asyncio.Event()

    def tell(now: BatchProgress) -> None:
        if now.phase == "waiting":
            waits.set()

    other = asyncio.create_task(BatchJob(options, shared=True, on_progress=tell).run(second))
    await waits.wait()
    assert second.received == []
    running.cancel()
    assert (await other).done == LINES
    assert second.received == [3, 4, 5]


async def test_waiting_runner_can_be_cancelled(
    options: BatchOptions,
) -> None:
    first, second = SlowEngine(holds=3), Engine()
    running = asyncio.create_task(BatchJob(options, shared=True).run(first))
    await first.is_blocked.wait()

    def tell(now: BatchProgress) -> None:
        if now.phase == "waiting":
            request_cancel(options.directory, "drain")

    with pytest.raises(BatchCancelled):
        await BatchJob(options, shared=True, on_progress=tell).run(second)
    assert second.received == []
    await first.drain_requested.wait()
    first.is_drained.set()
    with pytest.raises(BatchCancelled):
        await running


async def test_retried_lines_are_answered_by_the_runner_that_has_them(
    options: BatchOptions,
) -> None:
    def fails_once(index: int) -> BatchLineResult:
        return (
            make_failure(index)
            if index == 1 and engine.received.count(1) == 1
            else make_answer(index)
        )

    engine = Engine(fails_once, holds=3)
    running = asyncio.create_task(BatchJob(options, shared=True).run(engine))
    await engine.is_blocked.wait()
    await wait_until_async(lambda: read_status(options.directory).counts.failed)
    other = asyncio.create_task(BatchJob(options, shared=True, retry_failed=True).run(Engine()))
    await wait_until_async(lambda: not read_status(options.directory).counts.failed)
    engine.holds = None
    engine.is_drained.set()
    engine.is_drained = asyncio.Event()
    for summary in await asyncio.gather(running, other):
        assert (summary.done, summary.failed) == (LINES, 0)
    assert engine.received.count(1) == 2


async def test_full_disk_ends_the_batch(
    options: BatchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("foundry_api.batch.journal.segments.os.fsync", full)
        with pytest.raises(BatchStorageFailed, match="No space left"):
            await BatchJob(options).run(Engine())
    assert (await BatchJob(options).run(Engine())).done == LINES


async def test_strict_batch_with_an_invalid_line_runs_nothing(
    options: BatchOptions, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("no JSON\n{}\n", encoding="utf-8")
    strict = BatchOptions(input=InputOptions(path=str(path)), output=options.output, strict=True)
    engine = Engine()
    with pytest.raises(BatchInputInvalid, match="it has 2 invalid lines") as caught:
        await BatchJob(strict).run(engine)
    assert len(caught.value.problems) == 2
    assert not any(problem in caught.value.message for problem in caught.value.problems)
    assert engine.received == []


@pytest.mark.parametrize("source", ["-", "prompts.jsonl"])
async def test_refused_strict_batch_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text("no JSON\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    piped(monkeypatch, "no JSON\n")
    options = BatchOptions(
        input=InputOptions(path=source, format="openai"), output="answers.jsonl", strict=True
    )
    with pytest.raises(BatchInputInvalid, match="it has 1 invalid line"):
        await BatchJob(options).run(Engine())
    assert not options.directory.exists()


async def test_strict_batch_keeps_earlier_answers(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("no JSON\n", encoding="utf-8")
    options = BatchOptions(
        input=InputOptions(path=str(path)), output=str(tmp_path / "answers.jsonl")
    )
    assert (await BatchJob(options).run(Engine())).failed == 1
    with pytest.raises(BatchInputInvalid):
        await BatchJob(msgspec.structs.replace(options, strict=True)).run(Engine())
    assert options.directory.is_dir()


async def test_changed_input_is_detected(options: BatchOptions, tmp_path: Path) -> None:
    with pytest.raises(ServiceNotRunning):
        await BatchJob(options).run(
            Engine(lambda index: ServiceNotRunning("gone") if index else make_answer(index))
        )
    path = tmp_path / "prompts.txt"
    path.write_text("another prompt\n" * LINES, encoding="utf-8")
    with pytest.raises(BatchMismatch, match=r"prompts\.txt has changed since"):
        await BatchJob(options).run(Engine())
    unchecked = BatchOptions(input=options.input, output=options.output, check=False)
    with pytest.raises(BatchMismatch, match="is not the line that was answered"):
        await BatchJob(unchecked).run(Engine())
    assert (await BatchJob(options, restart=True).run(Engine())).done == LINES


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))


async def test_copy_of_a_pipe_is_readable_only_by_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BatchOptions(input=InputOptions(path="-"), output=str(tmp_path / "answers.jsonl"))
    piped(monkeypatch, "one\ntwo\n")
    with pytest.raises(ServiceNotRunning):
        await BatchJob(options).run(Engine(lambda _: ServiceNotRunning("gone")))
    if sys.platform != "win32":
        assert stat.S_IMODE(options.directory.stat().st_mode) == 0o700
    summary = await BatchJob(options, reuse_spooled_input=True).run(Engine())
    assert (summary.total, summary.done) == (2, 2)


async def test_copy_of_a_pipe_is_not_replaced_during_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BatchOptions(input=InputOptions(path="-"), output=str(tmp_path / "answers.jsonl"))
    piped(monkeypatch, "one\ntwo\n")
    engine = Engine(holds=1)
    running = await run_until_blocked(options, engine)
    piped(monkeypatch, "something else\n")
    with pytest.raises(BatchInUse):
        await BatchJob(options, restart=True).run(Engine())
    assert (options.directory / "input").read_text(encoding="utf-8") == "one\ntwo\n"
    engine.drain()
    assert (await running).done == 2


@contextlib.contextmanager
def pipe(kind: str, directory: Path, text: str) -> Generator[str]:
    """Yield the name of a pipe with a text in it."""
    if kind == "named":
        path = directory / "pipe"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_text, args=(text, "utf-8"))
        writer.start()
        yield str(path)
        writer.join()
        path.unlink()
        return
    ends = socket.socketpair() if kind == "socket" else None
    reader, other = os.pipe() if ends is None else (ends[0].detach(), ends[1].detach())
    os.write(other, text.encode())
    os.close(other)
    yield f"/dev/fd/{reader}"
    os.close(reader)


@pytest.mark.skipif(sys.platform == "win32", reason="needs the pipes of POSIX")
@pytest.mark.parametrize("kind", ["named", "descriptor", "socket"])
async def test_any_pipe_is_copied_like_standard_input(kind: str, tmp_path: Path) -> None:
    chosen = BatchOptions(input=InputOptions(path="?"), output=str(tmp_path / "answers.jsonl"))

    def reading(path: str, **others: Any) -> BatchOptions:
        read = InputOptions(path=path)
        return BatchOptions(**{**fields_of(chosen), "input": read, **others})

    with pipe(kind, tmp_path, "one\ntwo\nthree\n") as path, pytest.raises(ServiceNotRunning):
        await BatchJob(reading(path)).run(
            Engine(lambda index: ServiceNotRunning("gone") if index else make_answer(index))
        )
    first = path
    with pipe(kind, tmp_path, "something else\n") as path, pytest.raises(BatchMismatch):
        await BatchJob(reading(path)).run(Engine())
    summary = await BatchJob(reading(first), reuse_spooled_input=True).run(Engine())
    assert (summary.total, summary.done, summary.resumed) == (3, 3, 1)
    with pipe(kind, tmp_path, "one\ntwo\nthree\n") as path:
        assert (await BatchJob(reading(path)).run(Engine())).resumed == 3
    for others in ({"check": False, "output": str(tmp_path / "b.jsonl")}, {"output": "-"}):
        with pipe(kind, tmp_path, "one\ntwo\n") as path:
            assert (await BatchJob(reading(path, **others)).run(Engine())).total == 2


def fields_of(options: BatchOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__struct_fields__}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere opening such a pipe waits for it")
async def test_wait_for_a_silent_pipe_can_be_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    options = BatchOptions(
        input=InputOptions(path=str(tmp_path / "pipe")), output=str(tmp_path / "answers.jsonl")
    )
    running = asyncio.create_task(BatchJob(options).run(Engine()))
    await wait_until_async(lambda: list(options.directory.glob("input.*")))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not options.directory.exists()


async def test_refused_pipe_leaves_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BatchOptions(input=InputOptions(path="-"), output=str(tmp_path / "answers.jsonl"))
    piped(monkeypatch, "PK\3\4\n")
    with pytest.raises(BatchInputInvalid, match="is a zip archive"):
        await BatchJob(options).run(Engine())
    assert not options.directory.exists()
    options.directory.mkdir()
    (options.directory / "input").write_text("of a run that never began", encoding="utf-8")
    (options.directory / "input.0123456789abcdef").write_text("of one killed", encoding="utf-8")
    (options.directory / "input.txt").write_text("somebody's own", encoding="utf-8")
    piped(monkeypatch, "one\n")
    assert (await BatchJob(options).run(Engine())).total == 1
    copies = [path.name for path in options.directory.glob("input*")]
    assert sorted(copies) == ["input", "input.txt"]


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("PK\3\4\n", {}),
        ('{"custom_id": "a"}\n', {"strict": True}),
        ("", {"input": InputOptions(path="-", column="nowhere", format="csv")}),
    ],
)
async def test_refused_restart_preserves_input_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, others: dict[str, Any]
) -> None:
    options = BatchOptions(input=InputOptions(path="-"), output=str(tmp_path / "answers.jsonl"))
    piped(monkeypatch, "one\ntwo\n")
    assert (await BatchJob(options).run(Engine())).total == 2
    piped(monkeypatch, text)
    changed = msgspec.structs.replace(options, **others)
    with pytest.raises(BatchInputInvalid):
        await BatchJob(changed, restart=True).run(Engine())
    copies = [path.name for path in options.directory.glob("input*")]
    assert copies == ["input"]
    again = await BatchJob(options, reuse_spooled_input=True).run(Engine())
    assert (again.total, again.resumed) == (2, 2)
    piped(monkeypatch, "three\n")
    assert (await BatchJob(options, restart=True).run(Engine())).total == 1


async def test_pipe_without_a_copy_is_not_read_again(tmp_path: Path) -> None:
    for others in ({"check": False, "output": str(tmp_path / "b.jsonl")}, {"output": "-"}):
        options = BatchOptions(input=InputOptions(path="-"), **others)
        with pytest.raises(BatchInputInvalid, match="- has already been read, and no copy of it"):
            await BatchJob(options, reuse_spooled_input=True).run(Engine())


async def test_other_process_may_read_the_journal_during_a_run(options: BatchOptions) -> None:
    engine = Engine(holds=2)
    running = await run_until_blocked(options, engine)
    status = read_status(options.directory)
    assert (status.running, status.total) == (True, LINES)
    with pytest.raises(BatchInUse):
        open_journal(options)
    running.cancel()
    await asyncio.wait([running])


async def test_closing_the_engine_closes_the_reader(options: BatchOptions) -> None:
    """An engine that stops early leaves the rest of the input unread."""

    class Takes(Engine):
        async def run(self, items: AsyncIterable[WorkItem], /) -> AsyncGenerator[BatchLineResult]:
            async with aclosing(super().run(items)) as results:
                async for result in results:
                    yield result
                    return

    with pytest.raises(BatchError, match="did not answer every line"):
        await BatchJob(options).run(Takes(lambda index: None if index > 1 else make_answer(index)))
