"""The journal of a batch: what is recorded is there once, whoever comes and goes."""

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
from support.journal_factories import answer, failure, lines, opened, options_of, segments

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.types import BatchOptions


LOOKS = """
import sys
from pathlib import Path
from foundry_api.batch.journal import read_status

read_status(Path(sys.argv[1]))
"""


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    return options_of(tmp_path)


def test_what_was_recorded_is_known_to_the_next_one_who_opens_it(options: BatchOptions) -> None:
    with opened(options) as journal:
        assert journal.record([answer(0), failure(1)]) == 2
        assert journal.record([answer(2)]) == 1
    with opened(options) as journal:
        assert journal.get_finished(0, 10) == {0: 7, 1: 8, 2: 9}
        assert journal.get_finished(1, 1) == {1: 8}
        assert (journal.is_complete(3), journal.is_complete(4)) == (True, False)


def test_a_line_that_is_finished_stays_as_it_is(options: BatchOptions) -> None:
    with opened(options) as journal:
        journal.record([answer(0, "first"), failure(1)])
        assert journal.record([answer(0, "second"), answer(1), answer(2)]) == 1
        journal.publish(3)
    assert lines(options_output(options)) == [answer(0, "first").output, answer(2).output]


def options_output(options: BatchOptions) -> Path:
    return options.directory.with_name("answers.jsonl")


def test_nothing_recorded_is_nothing_written(options: BatchOptions) -> None:
    with opened(options) as journal:
        assert journal.record([]) == 0
        journal.record([failure(0)])
        assert segments(options) == [], "a failed line lies in the database"


def test_a_line_with_a_fact_that_the_database_refuses_is_not_left_out_silently(
    options: BatchOptions,
) -> None:
    nameless = msgspec.structs.replace(answer(0), duration_s=float("nan"))  # SQLite's null
    with opened(options) as journal:
        with pytest.raises(BatchStorageFailed, match="NOT NULL"):
            journal.record([nameless, answer(1)])
        assert journal.record([answer(0), answer(1)]) == 2


def test_a_second_runner_is_refused_unless_both_share(options: BatchOptions) -> None:
    with opened(options), pytest.raises(BatchInUse, match=f"process {os.getpid()}"):
        opened(options, shared=True)
    with opened(options, shared=True), pytest.raises(BatchInUse):
        opened(options)
    with opened(options, shared=True) as one, opened(options, shared=True) as two:
        one.record([answer(0)])
        assert two.get_finished(0, 1) == {0: 7}


def test_a_second_runner_in_a_process_does_not_free_the_locks_of_the_first(
    options: BatchOptions,
) -> None:
    """Else a third process takes itself for the last one, and removes the log of SQLite."""
    with opened(options, shared=True) as one, opened(options, shared=True) as other:
        one.record([answer(0)])
        subprocess.run(
            [sys.executable, "-c", LOOKS, str(options.directory)],
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert (options.directory / "journal.sqlite-wal").exists()
        other.record([answer(1)])
    with opened(options) as journal:
        assert journal.get_finished(0, 2) == {0: 7, 1: 8}


def test_a_runner_that_left_is_not_in_the_way(options: BatchOptions) -> None:
    for _ in range(3):
        opened(options).close()
    assert sorted(path.name for path in options.directory.iterdir()) == ["journal.sqlite", "lock"]


def test_a_runner_that_was_refused_leaves_nothing_of_itself(options: BatchOptions) -> None:
    with opened(options) as journal:
        with pytest.raises(BatchInUse):
            opened(options)
        with pytest.raises(BatchInUse):
            opened(options, restart=True)
        journal.record([answer(0)])
        assert len(read_status(options.directory).runners) == 1


def test_another_input_is_refused_once_a_line_is_answered(options: BatchOptions) -> None:
    opened(options).close()
    with opened(options, fingerprint="another", request_digest="otherwise") as journal:
        journal.record([answer(0)])
    with pytest.raises(BatchMismatch, match=r"prompts\.txt has changed since"):
        opened(options, fingerprint="yet another", request_digest="otherwise")
    with pytest.raises(BatchMismatch, match="the model, the template"):
        opened(options, fingerprint="another", request_digest="as before")
    opened(
        options, fingerprint=None, request_digest="otherwise"
    ).close()  # without a look at the input


def test_another_input_is_refused_while_somebody_works_on_the_first(options: BatchOptions) -> None:
    with opened(options, shared=True) as journal:
        with pytest.raises(BatchMismatch):
            opened(options, shared=True, fingerprint="another")
        opened(options, shared=True).close()
        assert journal.record([answer(0)]) == 1


def test_what_a_check_found_is_kept_as_long_as_the_input_is_the_same(options: BatchOptions) -> None:
    found = CheckResult(total=9, models={"": 9}, duplicates=frozenset({4, 7}), bad=2)
    with opened(options) as journal:
        assert journal.check_result is None
        journal.store_check_result(9, {"": 9}, {4, 7}, bad=2)
        assert journal.check_result == found
    with opened(options) as journal:
        assert journal.check_result == found
    with opened(options, fingerprint="another") as journal:
        assert journal.check_result is None
        assert read_status(options.directory).total is None


def test_a_restart_forgets_what_was_answered(options: BatchOptions) -> None:
    with opened(options) as journal:
        journal.record([answer(0), failure(1)])
        journal.store_check_result(2, {}, frozenset())
    with opened(options, restart=True, fingerprint="another") as journal:
        assert (journal.get_finished(0, 2), journal.check_result) == ({}, None)
        assert segments(options) == []
        journal.record([answer(0, "new"), answer(1)])
        journal.publish(2)
    assert lines(options_output(options)) == [answer(0, "new").output, answer(1).output]


def test_a_restart_is_refused_while_another_one_works(options: BatchOptions) -> None:
    with opened(options, shared=True) as journal:
        with pytest.raises(BatchInUse):
            opened(options, shared=True, restart=True)
        assert journal.record([answer(0)]) == 1


def test_failed_lines_are_forgotten_on_wish_and_answered_ones_are_not(
    options: BatchOptions,
) -> None:
    with opened(options) as journal:
        journal.record([answer(0), failure(1), failure(2)])
        assert journal.forget_failed() == 2
        assert journal.get_finished(0, 3) == {0: 7}
        assert journal.record([answer(1)]) == 1
        assert journal.forget_failed() == 0


def test_it_counts_what_is_finished(options: BatchOptions) -> None:
    with opened(options) as journal:
        journal.record([answer(0), answer(1, shared=True, attempts=0), failure(2)])
        counts = journal.get_counts()
    assert (counts.done, counts.failed, counts.shared, counts.finished) == (2, 1, 1, 3)
    assert (counts.prompt_tokens, counts.completion_tokens, counts.attempts) == (10, 6, 1)


def test_it_tells_the_batch_in_figures(options: BatchOptions) -> None:
    with opened(options) as journal:
        journal.record([answer(0), answer(1, model="other"), failure(2), failure(3, code="Odd")])
        journal.record([failure(4, "a word")])
        figures = journal.get_statistics()
        assert figures == read_statistics(options.directory)
    assert (figures.done, figures.failed, figures.latency.count) == (2, 3, 2)
    kinds = [(each.code, each.count, each.custom_id) for each in figures.errors]
    assert kinds == [("ServiceOverloaded", 2, "n-2"), ("Odd", 1, "n-3")]
    assert (figures.errors[0].message, figures.errors[0].hint) == ("too much to do", "Wait.")
    assert {each.model: each.lines for each in figures.models} == {"demo": 1, "other": 1, "": 3}


def test_a_model_that_was_rolled_back_is_not_remembered(options: BatchOptions) -> None:
    broken = msgspec.structs.replace(answer(0, model="first"), duration_s=float("nan"))
    with opened(options) as journal:
        with pytest.raises(BatchStorageFailed):
            journal.record([broken])
        journal.record([answer(1, model="second")])
        journal.record([answer(0, model="first")])
        models = {each.model: each.lines for each in journal.get_statistics().models}
    assert models == {"first": 1, "second": 1}


def test_the_status_tells_how_far_it_is_and_who_works(options: BatchOptions) -> None:
    with opened(options, wall_clock=lambda: 50.0) as journal:
        journal.store_check_result(3, {"": 3}, frozenset())
        journal.record([answer(0), failure(1)])
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


def test_what_is_published_is_current_until_a_line_changes(options: BatchOptions) -> None:
    with opened(options) as journal:
        journal.record([answer(0), failure(1)])
        published = journal.publish(2)
        status = read_status(options.directory)
        assert (status.current, status.published) == (True, published)
        journal.forget_failed()
        assert not read_status(options.directory).current
        journal.record([failure(1)])
        assert not read_status(options.directory).current, "it may have failed otherwise"
        journal.publish(2)
        assert read_status(options.directory).current


def test_those_who_work_hear_that_they_are_to_leave(options: BatchOptions) -> None:
    with opened(options, shared=True) as one, opened(options, shared=True) as two:
        assert request_cancel(options.directory, "drain") == 2
        assert (one.heartbeat(), two.heartbeat()) == ("drain", "drain")
        assert request_cancel(options.directory, "stop") == 2
        assert one.heartbeat() == "stop"
    with opened(options) as later:
        assert later.heartbeat() is None
    assert request_cancel(options.directory, "stop") == 0


@pytest.mark.parametrize("ask", [read_status, lambda path: request_cancel(path, "stop")])
def test_there_is_no_batch_where_none_was_begun(ask: object, tmp_path: Path) -> None:
    assert callable(ask)
    with pytest.raises(BatchStorageFailed, match="there is no batch"):
        ask(tmp_path)
    refused = options_of(tmp_path)
    options_output(refused).write_text("mine", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
        opened(refused)
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
def test_another_programs_database_is_refused_and_not_touched(
    statements: tuple[str, ...], options: BatchOptions
) -> None:
    options.directory.mkdir()
    path = options.directory / "journal.sqlite"
    before = foreign(path, *statements)
    for ask in (opened, lambda _: read_status(options.directory)):
        with pytest.raises(BatchStorageFailed, match="not a journal that this version"):
            ask(options)
    assert path.read_bytes() == before


def test_a_newer_versions_journal_is_refused(options: BatchOptions) -> None:
    opened(options).close()
    foreign(options.directory / "journal.sqlite", "pragma user_version = 2")
    with pytest.raises(BatchStorageFailed, match="not a journal that this version"):
        opened(options)


def test_a_file_that_is_no_database_is_refused(options: BatchOptions) -> None:
    options.directory.mkdir()
    path = options.directory / "journal.sqlite"
    path.write_bytes(b"something else " * 100)
    with pytest.raises(BatchStorageFailed, match="not a database"):
        opened(options)
    assert path.read_bytes() == b"something else " * 100


def test_a_journal_whose_maker_died_before_it_had_any_table_is_begun(options: BatchOptions) -> None:
    options.directory.mkdir()
    (options.directory / "journal.sqlite").touch()
    with opened(options) as journal:
        assert journal.record([answer(0)]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_nobody_else_reads_a_journal_and_the_umask_says_who_reads_the_output(
    options: BatchOptions,
) -> None:
    program = (
        "import os, sys; os.umask(0o027)\n"
        "from support.journal_factories import *; from pathlib import Path\n"
        "with opened(options_of(Path(sys.argv[1]))) as journal:\n"
        "    journal.record([answer(0), failure(1)]); journal.publish(2)\n"
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
