"""The journal stores each result once, across runners and restarts."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.batch.journal import CheckResult, read_statistics, read_status, request_cancel
from foundry_api.types.errors import BatchInUse, BatchMismatch, BatchStorageFailed
from support.journal_factories import (
    list_segments,
    make_answer,
    make_failure,
    make_options,
    open_journal,
    read_lines,
)

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.types import BatchOptions


READ_STATUS = """
import sys
from pathlib import Path
from foundry_api.batch.journal import read_status

read_status(Path(sys.argv[1]))
"""


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    return make_options(tmp_path)


def test_recorded_lines_are_finished_after_reopening(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        assert journal.record([make_answer(0), make_failure(1)]) == 2
        assert journal.record([make_answer(2)]) == 1
    with open_journal(options) as journal:
        assert journal.get_finished(0, 10) == {0: 7, 1: 8, 2: 9}
        assert journal.get_finished(1, 1) == {1: 8}
        assert (journal.is_complete(3), journal.is_complete(4)) == (True, False)


def test_a_finished_line_keeps_its_first_result(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0, "first"), make_failure(1)])
        assert journal.record([make_answer(0, "second"), make_answer(1), make_answer(2)]) == 1
        journal.publish(3)
    assert read_lines(options_output(options)) == [
        make_answer(0, "first").output,
        make_answer(2).output,
    ]


def options_output(options: BatchOptions) -> Path:
    return options.directory.with_name("answers.jsonl")


def test_no_segment_is_created_without_an_answer(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        assert journal.record([]) == 0
        journal.record([make_failure(0)])
        assert list_segments(options) == [], "a failed line lies in the database"


def test_a_value_that_sqlite_rejects_raises_and_records_nothing(
    options: BatchOptions,
) -> None:
    broken = msgspec.structs.replace(make_answer(0), duration_s=float("nan"))  # SQLite's null
    with open_journal(options) as journal:
        with pytest.raises(BatchStorageFailed, match="NOT NULL"):
            journal.record([broken, make_answer(1)])
        assert journal.record([make_answer(0), make_answer(1)]) == 2


def test_a_second_runner_is_refused_unless_both_are_shared(options: BatchOptions) -> None:
    with open_journal(options), pytest.raises(BatchInUse, match=f"process {os.getpid()}"):
        open_journal(options, shared=True)
    with open_journal(options, shared=True), pytest.raises(BatchInUse):
        open_journal(options)
    with open_journal(options, shared=True) as one, open_journal(options, shared=True) as two:
        one.record([make_answer(0)])
        assert two.get_finished(0, 1) == {0: 7}


def test_two_runners_in_one_process_keep_their_sqlite_locks(
    options: BatchOptions,
) -> None:
    """Otherwise a third process looks like the last one, and SQLite removes the log."""
    with open_journal(options, shared=True) as one, open_journal(options, shared=True) as other:
        one.record([make_answer(0)])
        subprocess.run(
            [sys.executable, "-c", READ_STATUS, str(options.directory)],
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert (options.directory / "journal.sqlite-wal").exists()
        other.record([make_answer(1)])
    with open_journal(options) as journal:
        assert journal.get_finished(0, 2) == {0: 7, 1: 8}


def test_closed_runners_leave_no_lock_files(options: BatchOptions) -> None:
    for _ in range(3):
        open_journal(options).close()
    assert sorted(path.name for path in options.directory.iterdir()) == ["journal.sqlite", "lock"]


def test_a_refused_runner_leaves_no_row(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        with pytest.raises(BatchInUse):
            open_journal(options)
        with pytest.raises(BatchInUse):
            open_journal(options, restart=True)
        journal.record([make_answer(0)])
        assert len(read_status(options.directory).runners) == 1


def test_a_changed_input_is_refused_once_a_line_is_answered(options: BatchOptions) -> None:
    open_journal(options).close()
    with open_journal(options, fingerprint="another", request_digest="otherwise") as journal:
        journal.record([make_answer(0)])
    with pytest.raises(BatchMismatch, match=r"prompts\.txt has changed since"):
        open_journal(options, fingerprint="yet another", request_digest="otherwise")
    with pytest.raises(BatchMismatch, match="the model, the template"):
        open_journal(options, fingerprint="another", request_digest="as before")
    open_journal(
        options, fingerprint=None, request_digest="otherwise"
    ).close()  # the input was not read


def test_a_changed_input_is_refused_while_another_runner_works(options: BatchOptions) -> None:
    with open_journal(options, shared=True) as journal:
        with pytest.raises(BatchMismatch):
            open_journal(options, shared=True, fingerprint="another")
        open_journal(options, shared=True).close()
        assert journal.record([make_answer(0)]) == 1


def test_the_check_result_is_stored_until_the_input_changes(options: BatchOptions) -> None:
    result = CheckResult(total=9, models={"": 9}, duplicates=frozenset({4, 7}), bad=2)
    with open_journal(options) as journal:
        assert journal.check_result is None
        journal.store_check_result(9, {"": 9}, {4, 7}, bad=2)
        assert journal.check_result == result
    with open_journal(options) as journal:
        assert journal.check_result == result
    with open_journal(options, fingerprint="another") as journal:
        assert journal.check_result is None
        assert read_status(options.directory).total is None


def test_restart_forgets_all_results(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0), make_failure(1)])
        journal.store_check_result(2, {}, frozenset())
    with open_journal(options, restart=True, fingerprint="another") as journal:
        assert (journal.get_finished(0, 2), journal.check_result) == ({}, None)
        assert list_segments(options) == []
        journal.record([make_answer(0, "new"), make_answer(1)])
        journal.publish(2)
    assert read_lines(options_output(options)) == [
        make_answer(0, "new").output,
        make_answer(1).output,
    ]


def test_restart_is_refused_while_another_runner_works(options: BatchOptions) -> None:
    with open_journal(options, shared=True) as journal:
        with pytest.raises(BatchInUse):
            open_journal(options, shared=True, restart=True)
        assert journal.record([make_answer(0)]) == 1


def test_forget_failed_keeps_answered_lines(
    options: BatchOptions,
) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0), make_failure(1), make_failure(2)])
        assert journal.forget_failed() == 2
        assert journal.get_finished(0, 3) == {0: 7}
        assert journal.record([make_answer(1)]) == 1
        assert journal.forget_failed() == 0


def test_get_counts_counts_finished_lines(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0), make_answer(1, shared=True, attempts=0), make_failure(2)])
        counts = journal.get_counts()
    assert (counts.done, counts.failed, counts.shared, counts.finished) == (2, 1, 1, 3)
    assert (counts.prompt_tokens, counts.completion_tokens, counts.attempts) == (10, 6, 1)


def test_get_statistics_matches_read_statistics(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        journal.record(
            [
                make_answer(0),
                make_answer(1, model="other"),
                make_failure(2),
                make_failure(3, code="Odd"),
            ]
        )
        journal.record([make_failure(4, "a word")])
        figures = journal.get_statistics()
        assert figures == read_statistics(options.directory)
    assert (figures.done, figures.failed, figures.latency.count) == (2, 3, 2)
    kinds = [(error.code, error.count, error.custom_id) for error in figures.errors]
    assert kinds == [("ServiceOverloaded", 2, "n-2"), ("Odd", 1, "n-3")]
    assert (figures.errors[0].message, figures.errors[0].hint) == ("too much to do", "Wait.")
    assert {model.model: model.lines for model in figures.models} == {"demo": 1, "other": 1, "": 3}


def test_a_model_of_a_rolled_back_record_is_not_stored(options: BatchOptions) -> None:
    broken = msgspec.structs.replace(make_answer(0, model="first"), duration_s=float("nan"))
    with open_journal(options) as journal:
        with pytest.raises(BatchStorageFailed):
            journal.record([broken])
        journal.record([make_answer(1, model="second")])
        journal.record([make_answer(0, model="first")])
        models = {model.model: model.lines for model in journal.get_statistics().models}
    assert models == {"first": 1, "second": 1}


def test_read_status_reports_progress_and_runners(options: BatchOptions) -> None:
    with open_journal(options, wall_clock=lambda: 50.0) as journal:
        journal.store_check_result(3, {"": 3}, frozenset())
        journal.record([make_answer(0), make_failure(1)])
        assert journal.heartbeat(b'{"so":"far"}') is None
        status = read_status(options.directory)
        assert (status.total, status.counts.finished, status.running) == (3, 2, True)
        assert (status.started_at, status.published) == (50.0, None)
        assert status.options == options.absolute
        (runner,) = status.runners
        assert (runner.pid, runner.progress, runner.ended_at) == (
            os.getpid(),
            b'{"so":"far"}',
            None,
        )
    status = read_status(options.directory)
    assert (status.running, status.runners[0].ended_at, status.current) == (False, 50.0, False)


def test_published_output_is_current_until_a_line_changes(options: BatchOptions) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0), make_failure(1)])
        published = journal.publish(2)
        status = read_status(options.directory)
        assert (status.current, status.published) == (True, published)
        journal.forget_failed()
        assert not read_status(options.directory).current
        journal.record([make_failure(1)])
        assert not read_status(options.directory).current, "it may have failed otherwise"
        journal.publish(2)
        assert read_status(options.directory).current


def test_live_runners_receive_a_cancel_request(options: BatchOptions) -> None:
    with open_journal(options, shared=True) as one, open_journal(options, shared=True) as two:
        assert request_cancel(options.directory, "drain") == 2
        assert (one.heartbeat(), two.heartbeat()) == ("drain", "drain")
        assert request_cancel(options.directory, "stop") == 2
        assert one.heartbeat() == "stop"
    with open_journal(options) as later:
        assert later.heartbeat() is None
    assert request_cancel(options.directory, "stop") == 0


@pytest.mark.parametrize("ask", [read_status, lambda path: request_cancel(path, "stop")])
def test_status_and_cancel_fail_without_a_batch(ask: object, tmp_path: Path) -> None:
    assert callable(ask)
    with pytest.raises(BatchStorageFailed, match="there is no batch"):
        ask(tmp_path)
    refused = make_options(tmp_path)
    options_output(refused).write_text("mine", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
        open_journal(refused)
    with pytest.raises(BatchStorageFailed, match="there is no batch"):
        ask(refused.directory)


def foreign(path: Path, *statements: str) -> bytes:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return path.read_bytes()


@pytest.mark.parametrize(
    "statements",
    [("create table t (x)",), ("pragma application_id = 7",), ("pragma user_version = 2",)],
)
def test_another_programs_database_is_refused_unchanged(
    statements: tuple[str, ...], options: BatchOptions
) -> None:
    options.directory.mkdir()
    path = options.directory / "journal.sqlite"
    before = foreign(path, *statements)
    for read in (open_journal, lambda _: read_status(options.directory)):
        with pytest.raises(BatchStorageFailed, match="not a journal that this version"):
            read(options)
    assert path.read_bytes() == before


def test_the_journal_of_a_newer_version_is_refused(options: BatchOptions) -> None:
    open_journal(options).close()
    foreign(options.directory / "journal.sqlite", "pragma user_version = 2")
    with pytest.raises(BatchStorageFailed, match="not a journal that this version"):
        open_journal(options)


def test_a_file_that_is_not_a_database_is_refused(options: BatchOptions) -> None:
    options.directory.mkdir()
    path = options.directory / "journal.sqlite"
    path.write_bytes(b"something else " * 100)
    with pytest.raises(BatchStorageFailed, match="not a database"):
        open_journal(options)
    assert path.read_bytes() == b"something else " * 100


def test_an_empty_journal_file_is_initialized(options: BatchOptions) -> None:
    options.directory.mkdir()
    (options.directory / "journal.sqlite").touch()
    with open_journal(options) as journal:
        assert journal.record([make_answer(0)]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_the_journal_is_private_and_the_output_follows_the_umask(
    options: BatchOptions,
) -> None:
    program = (
        "import os, sys; os.umask(0o027)\n"
        "from support.journal_factories import *; from pathlib import Path\n"
        "with open_journal(make_options(Path(sys.argv[1]))) as journal:\n"
        "    journal.record([make_answer(0), make_failure(1)]); journal.publish(2)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(options.directory.parent)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    output = options_output(options)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (options.directory, output)]
    assert modes == [0o700, 0o640]
    assert stat.S_IMODE(options.errors_path.stat().st_mode) == 0o640
