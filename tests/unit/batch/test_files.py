"""Files of a batch that overlap are refused, and nothing is created for a refused batch."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from foundry_api.batch.job import BatchJob
from foundry_api.batch.journal import read_status
from foundry_api.batch.types import BatchOptions, InputOptions, get_journal_directory
from foundry_api.cli import main
from foundry_api.types.errors import BatchError, BatchInputInvalid, BatchStorageFailed
from support.journal_factories import make_answer, make_failure, read_lines
from unit.batch.test_job import Engine, answered

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.types import BatchLineResult

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs links and devices of POSIX")
INPUT = "".join(f"prompt {index}\n" for index in range(6))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an input and other files of the user."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.txt").write_text(INPUT, encoding="utf-8")
    (tmp_path / "thesis.html").write_text("<!doctype html>\n<p>mine", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "old.batch" / "sub").mkdir(parents=True)
    (tmp_path / "old.batch" / "journal.sqlite").write_text("answers", encoding="utf-8")
    return tmp_path


def seen(place: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }


def options(output: str, path: str = "q.txt", **others: Any) -> BatchOptions:
    return BatchOptions(input=InputOptions(path=path), output=output, ordered=True, **others)


async def refused(place: Path, chosen: BatchOptions, **how: Any) -> BatchError:
    """Return why a batch is refused, and check that no line ran and no file changed."""
    before, engine = seen(place), Engine()
    with pytest.raises(BatchError) as caught:
        await BatchJob(chosen, **how).run(engine)
    assert seen(place) == before
    assert engine.received == []
    return caught.value


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("chosen", "field", "message"),
    [
        (options("q.txt"), "output", "the output q.txt is the same file as the input q.txt"),
        (options("./q.txt"), "output", "the output ./q.txt is the same file as the input"),
        (options("sub/../q.txt"), "output", "is the same file as the input q.txt"),
        (options("a.jsonl", errors="q.txt"), "errors", "the error file q.txt is the same file as"),
        (options("a.jsonl", errors="a.jsonl"), "errors", "the same file as the output a.jsonl"),
        (options("a.jsonl", errors="./a.jsonl"), "errors", "the same file as the output a.jsonl"),
        (options("a.jsonl", errors="A.JSONL"), "errors", "the same file as the output a.jsonl"),
        (options("a.jsonl", report="q.txt"), "report", "the report q.txt is the same file as the"),
        (options("-", report="q.txt"), "report", "the report q.txt is the same file as the input"),
        (options("a.jsonl", report="a.jsonl"), "report", "the same file as the output"),
        (options("a.jsonl", errors="e", report="e"), "report", "the same file as the error file e"),
        (options("a.jsonl", report="a.errors.jsonl"), "report", "the same file as the error file"),
        (options("q.jsonl", path="q.errors.jsonl"), "errors", "the same file as the input"),
        (options("a.jsonl", errors="a.jsonl.batch/x"), "errors", "is inside"),
        (options("a.jsonl", report="a.jsonl.batch/journal.sqlite"), "report", "is inside"),
        (options("a.jsonl", path="a.jsonl.batch/input"), "path", "is inside"),
        (options("a.jsonl", report="thesis.html"), "report", "exists, and is not the report"),
        (options("typo/dir/a.jsonl"), "output", "dir does not exist"),
        (options("a.jsonl", errors="typo/e.jsonl"), "errors", "typo does not exist"),
        (options("a.jsonl", report="typo/r.html"), "report", "typo does not exist"),
        (options("q.txt/a.jsonl", path="-"), "output", "cannot be written"),
        (options("sub"), "output", "the output sub is a directory"),
        (options("a.jsonl", errors="sub"), "errors", "the error file sub is a directory"),
        (options("a.jsonl", report="sub"), "report", "the report sub is a directory"),
        (options("a\0b"), "output", "NUL"),
        (options(""), "output", "is not a file name"),
        (options("answers/"), "output", "the output answers/ names a directory"),
        (options("a.jsonl", errors="e/."), "errors", "the error file e/. names a directory"),
        (options("old.batch/journal.sqlite"), "output", "the journal of another batch"),
        (options("old.batch/new.jsonl"), "output", "the journal of another batch"),
        (options("a.jsonl", errors="old.batch/part-1.jsonl"), "errors", "of another batch"),
        (options("a.jsonl", errors="old.batch/journal.sqlite"), "errors", "of another batch"),
        (options("a.jsonl", report="old.batch/sub/r.html"), "report", "of another batch"),
        (options("thesis.html", errors="a\0b"), "errors", "NUL"),
    ],
)
async def test_invalid_files_are_refused_before_anything_is_opened(
    place: Path,
    chosen: BatchOptions,
    field: str,
    message: str,
    restart: bool,  # noqa: FBT001 - pytest calls by name
) -> None:
    error = await refused(place, chosen, restart=restart)
    assert isinstance(error, BatchInputInvalid)
    assert message in error.message
    assert error.field == field
    assert "--restart" not in error.hint


@POSIX
@pytest.mark.parametrize("other", ["hard", "soft", "there/q.txt"])
@pytest.mark.parametrize("role", ["output", "errors", "report"])
async def test_other_names_of_the_input_are_recognized(place: Path, other: str, role: str) -> None:
    os.link("q.txt", "hard")
    (place / "soft").symlink_to("q.txt")
    (place / "there").symlink_to(".")
    chosen = options(**{"output": "a.jsonl", role: other})
    error = await refused(place, chosen, restart=True)
    assert "is the same file as the input q.txt" in error.message


@POSIX
async def test_missing_file_is_recognized_through_a_linked_directory(
    place: Path,
) -> None:
    (place / "there").symlink_to("sub")
    error = await refused(place, options("sub/a.jsonl", errors="there/a.jsonl"))
    assert "is the same file as the output" in error.message


@POSIX
@pytest.mark.parametrize("device", [os.devnull, "pipe"])
async def test_non_regular_file_is_not_replaced(place: Path, device: str) -> None:
    if sys.platform != "win32":
        os.mkfifo("pipe")
    for chosen in (options(device), options("a.jsonl", errors=device)):
        error = await refused(place, chosen, restart=True)
        assert "is not a regular file" in error.message
        assert "-o - is standard output" in error.hint or chosen.errors


@POSIX
async def test_redirected_standard_input_is_recognized_as_its_file(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (place / "q.txt").open(encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        error = await refused(place, options("q.txt", path="-"), restart=True)
    assert "is the same file as the input on standard input" in error.message


@POSIX
async def test_standard_output_redirected_to_the_input_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (place / "q.txt").open("a", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        error = await refused(place, options("-"))
        assert "output on standard output is the same file as the input q.txt" in error.message
        with (place / "q.txt").open(encoding="utf-8") as read:
            monkeypatch.setattr(sys, "stdin", read)
            error = await refused(place, options("-", path="-"))
    assert "is the same file as the input on standard input" in error.message


async def test_file_named_like_a_journal_is_ignored(place: Path) -> None:
    (place / "journal.sqlite").write_text("somebody's own", encoding="utf-8")
    assert (await BatchJob(options("a.jsonl")).run(Engine())).done == 6


@pytest.mark.skipif(sys.platform != "linux", reason="needs the names that Linux gives to pipes")
async def test_pipe_as_output_is_refused(place: Path) -> None:
    reader, writer = os.pipe()
    try:
        for chosen in (
            options(f"/dev/fd/{writer}"),
            options("a.jsonl", report=f"/proc/self/fd/{writer}"),
        ):
            assert "is not a regular file" in (await refused(place, chosen, restart=True)).message
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("command", ["status", "cancel", "retry"])
def test_standard_output_has_no_journal(
    place: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del place
    assert main(["batch", command, "-"]) == 2
    assert "answers on standard output have no journal" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["a.jsonl", "a.errors.jsonl"])
async def test_foreign_output_is_refused_without_a_journal(place: Path, there: str) -> None:
    (place / there).write_text("mine", encoding="utf-8")
    error = await refused(place, options("a.jsonl"))
    assert isinstance(error, BatchStorageFailed)
    assert "was not written by this batch" in error.message
    assert "what is in it is lost" in error.hint


async def test_file_in_place_of_the_journal_is_refused(place: Path) -> None:
    (place / "a.jsonl.batch").write_text("mine", encoding="utf-8")
    assert "is not a directory" in (await refused(place, options("a.jsonl"))).message


@POSIX
@pytest.mark.parametrize("there", [False, True])
async def test_linked_output_uses_the_journal_of_its_target(
    place: Path,
    there: bool,  # noqa: FBT001 - pytest calls by name
) -> None:
    real = place / "sub" / "real.jsonl"
    if there:
        real.write_text("", encoding="utf-8")
    (place / "link.jsonl").symlink_to(real)
    summary = await BatchJob(options("link.jsonl"), restart=there).run(Engine())
    assert (place / "link.jsonl").is_symlink()
    assert read_lines(real) == answered(*range(6))
    assert summary.output is not None
    assert summary.output.samefile(real)
    assert (place / "sub" / "real.jsonl.batch").is_dir()
    assert not (place / "link.jsonl.batch").exists()
    again = Engine()
    await BatchJob(options("sub/real.jsonl")).run(again)
    assert again.received == [], "both names are the same batch"


def test_doctor_report_replaces_only_an_earlier_report(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = seen(place)
    assert main(["doctor", "--quick", "--report", "thesis.html"]) == 2
    assert "exists and is not a report" in capsys.readouterr().err
    assert main(["doctor", "--quick", "--report", "typo/report.md"]) == 2
    assert seen(place) == before


async def test_batch_resumes_from_any_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal stores absolute paths."""

    def fails(index: int) -> BatchLineResult:
        return make_failure(index) if index == 2 else make_answer(index)

    chosen = options("a.jsonl", errors="e.jsonl")
    assert (await BatchJob(chosen).run(Engine(fails))).failed == 1
    monkeypatch.chdir(place / "sub")
    stored = read_status(get_journal_directory("../a.jsonl")).options
    again = msgspec.structs.replace(stored, output="../a.jsonl")
    still = Engine(fails)
    summary = await BatchJob(again, retry_failed=True, reuse_spooled_input=True).run(still)
    assert (still.received, summary.failed) == ([2], 1)
    assert names(place, ".jsonl") == ["a.jsonl", "e.jsonl"]
    assert names(place / "sub") == []


def names(directory: Path, suffix: str = "") -> list[str]:
    """Return the names in a directory that end with a suffix."""
    return sorted(path.name for path in directory.iterdir() if path.name.endswith(suffix))
