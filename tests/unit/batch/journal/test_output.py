"""What a batch writes: whole or not at all, once each line, and over nobody else's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from foundry_api.batch.journal import read_status
from foundry_api.batch.journal.output import OutputOwnership, Role
from foundry_api.types.errors import BatchInUse, BatchMismatch, BatchStorageFailed
from support.journal_factories import answer, failure, lines, opened, options_of, segments

if TYPE_CHECKING:
    from foundry_api.batch.types import BatchOptions

JOURNAL = ["journal.sqlite", "lock"]


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    return options_of(tmp_path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    return tmp_path / "answers.errors.jsonl"


def answered(*indexes: int) -> list[bytes]:
    return [answer(index).output for index in indexes]


def publish(options: BatchOptions, total: int = 3, **others: Any) -> None:
    with opened(options, **others) as journal:
        journal.publish(total)


def begin(options: BatchOptions, *, failed: bool = False) -> None:
    """Three lines are finished, in another order than that of the input."""
    with opened(options) as journal:
        journal.record([answer(2), failure(1) if failed else answer(1), answer(0)])


def test_the_answers_of_one_runner_become_the_output_without_being_copied(
    options: BatchOptions, output: Path
) -> None:
    with opened(options) as journal:
        journal.record([answer(2), answer(1), answer(0)])
        (segment,) = segments(options)
        before = (options.directory / segment).stat().st_ino
        published = journal.publish(3)
    assert (published.output, published.lines, published.errors) == (output, 3, None)
    assert lines(output) == answered(2, 1, 0), "as they finished"
    assert output.stat().st_ino == before
    assert sorted(path.name for path in options.directory.iterdir()) == JOURNAL


def test_the_order_of_the_input_is_kept_on_wish(tmp_path: Path, output: Path) -> None:
    options = options_of(tmp_path, ordered=True)
    begin(options)
    publish(options)
    assert lines(output) == answered(0, 1, 2)
    assert sorted(path.name for path in options.directory.iterdir()) == JOURNAL


def test_answers_of_several_runs_come_together(
    options: BatchOptions, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.batch.journal.segments.MAX_OPEN_SEGMENTS", 2)
    monkeypatch.setattr("foundry_api.batch.journal.segments.BATCH_ROWS", 3)
    for run in range(4):
        with opened(options) as journal:
            journal.record([answer(index) for index in range(run, 8, 4)])
    publish(options, 8)
    assert lines(output) == answered(*range(8))
    assert segments(options) == []


def test_failed_lines_go_to_a_file_of_their_own(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    begin(options, failed=True)
    with opened(options) as journal:
        published = journal.publish(3)
    assert (published.errors, published.failed, published.lines) == (errors, 1, 2)
    assert (lines(errors), len(lines(output))) == ([failure(1).output], 2)


def test_a_file_that_is_called_as_a_draft_might_be_is_left_alone(
    tmp_path: Path, options: BatchOptions, errors: Path
) -> None:
    mine = tmp_path / ".answers.errors.jsonl.draft"
    mine.write_bytes(b"mine")
    begin(options, failed=True)
    publish(options)
    assert mine.read_bytes() == b"mine"
    assert lines(errors) == [failure(1).output]


def test_the_draft_of_a_run_that_was_killed_is_removed_by_the_next_one(
    tmp_path: Path, options: BatchOptions, errors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(options, failed=True)

    place = OutputOwnership.replace

    def die(files: OutputOwnership, role: Role, draft: Path) -> None:
        if role == "errors":
            raise SystemExit
        place(files, role, draft)

    with monkeypatch.context() as patch, opened(options) as journal:
        patch.setattr(OutputOwnership, "replace", die)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            journal.publish(3)
    assert list(tmp_path.glob(".answers.errors.jsonl.*"))
    publish(options)
    assert not list(tmp_path.glob(".answers.errors.jsonl.*"))
    assert lines(errors) == [failure(1).output]


def test_the_error_file_goes_when_a_retry_answers_all(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    begin(options, failed=True)
    publish(options)
    with opened(options) as journal:
        journal.forget_failed()
        journal.record([answer(1)])
        assert journal.publish(3).errors is None
    assert not errors.exists()
    assert sorted(lines(output)) == sorted(answered(0, 1, 2))


def test_a_retry_in_which_they_fail_again_tells_the_new_reasons(
    options: BatchOptions, errors: Path
) -> None:
    begin(options, failed=True)
    publish(options)
    with opened(options) as journal:
        journal.forget_failed()
        journal.record([failure(1, "still too much to do")])
        journal.publish(3)
    assert lines(errors) == [failure(1, "still too much to do").output]


def test_nothing_is_written_twice(options: BatchOptions, output: Path) -> None:
    begin(options)
    publish(options)
    before = output.stat()
    publish(options)
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_batch_without_an_answer_has_an_empty_output(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    with opened(options) as journal:
        journal.record([failure(0)])
        journal.publish(1)
    assert (lines(output), lines(errors)) == ([], [failure(0).output])
    with opened(options_of(options.directory, "none.jsonl")) as journal:
        assert journal.publish(0).lines == 0


def test_what_is_not_finished_is_not_published(options: BatchOptions, output: Path) -> None:
    begin(options)
    with opened(options) as journal, pytest.raises(BatchStorageFailed, match="not complete"):
        journal.publish(4)
    assert not output.exists()


def test_another_order_is_another_output(options: BatchOptions, output: Path) -> None:
    begin(options)
    publish(options)
    publish(options_of(output.parent, ordered=True))
    assert lines(output) == answered(0, 1, 2)


def test_an_error_file_with_another_name_is_written_there(
    options: BatchOptions, tmp_path: Path, output: Path
) -> None:
    begin(options, failed=True)
    publish(options)
    before, elsewhere = output.stat().st_ino, tmp_path / "new" / "failed.jsonl"
    elsewhere.parent.mkdir()
    publish(options_of(tmp_path, errors=str(elsewhere)))
    assert lines(elsewhere) == [failure(1).output]
    assert output.stat().st_ino == before, "the output is as it was"


def test_an_error_file_that_was_moved_away_is_written_again(
    options: BatchOptions, errors: Path
) -> None:
    begin(options, failed=True)
    publish(options)
    errors.unlink()
    publish(options)
    assert lines(errors) == [failure(1).output]


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.errors.jsonl"])
@pytest.mark.parametrize("failed", [True, False])
def test_a_file_that_is_there_already_is_neither_replaced_nor_removed(
    name: str, *, failed: bool, options: BatchOptions, tmp_path: Path
) -> None:
    theirs = tmp_path / name
    theirs.write_text("mine\n", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
        opened(options)
    theirs.unlink()
    begin(options, failed=failed)
    theirs.write_text("mine\n", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
        publish(options)
    assert theirs.read_text(encoding="utf-8") == "mine\n"


def test_a_file_that_comes_in_the_run_is_not_replaced_either(
    options: BatchOptions, output: Path
) -> None:
    with opened(options) as journal:
        journal.record([answer(0)])
        output.write_text("mine\n", encoding="utf-8")
        with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
            journal.publish(1)
        output.unlink()
        journal.publish(1)
    assert lines(output) == answered(0)


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.errors.jsonl"])
def test_a_file_that_somebody_changed_is_noticed(
    name: str, options: BatchOptions, tmp_path: Path
) -> None:
    begin(options, failed=True)
    publish(options)
    changed = tmp_path / name
    before = changed.read_bytes()
    changed.write_bytes(b"mine\n")
    with pytest.raises(BatchMismatch, match=f"{name} is not as this batch left it") as caught:
        opened(options)
    assert caught.value.hint
    assert changed.read_bytes() == b"mine\n"
    status = read_status(options.directory)
    assert status.counts.finished == 3
    changed.write_bytes(before)  # as it was, but for its time
    with pytest.raises(BatchMismatch):
        opened(options)


def test_an_output_that_is_gone_with_its_answers_is_noticed(
    options: BatchOptions, output: Path
) -> None:
    begin(options)
    publish(options)
    output.unlink()
    with pytest.raises(BatchMismatch, match="is gone, and the answers with it"):
        opened(options)
    begin_anew = opened(options, restart=True)
    begin_anew.close()


def test_a_restart_replaces_what_is_there_even_when_it_was_stopped_in_between(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    for path in (output, errors):
        path.write_text("old\n", encoding="utf-8")
    with opened(options, restart=True) as journal:
        journal.record([answer(0)])
    assert output.read_text(encoding="utf-8") == "old\n", "until there is a new one"
    with opened(options) as journal:  # without --restart it goes on
        journal.record([failure(1)])
        journal.publish(2)
    assert (lines(output), lines(errors)) == (answered(0), [failure(1).output])


def test_a_directory_is_no_output(options: BatchOptions, output: Path) -> None:
    output.mkdir()
    with pytest.raises(BatchStorageFailed, match="is a directory"):
        opened(options)


def test_answers_that_something_else_wrote_over_are_not_published(
    tmp_path: Path, output: Path
) -> None:
    options = options_of(tmp_path, ordered=True)
    begin(options)
    (segment,) = segments(options)
    (options.directory / segment).write_bytes(b"x")
    with pytest.raises(BatchStorageFailed, match="does not hold what the journal says"):
        publish(options)
    (options.directory / segment).unlink()
    with pytest.raises(BatchStorageFailed, match="is gone, and answers with it"):
        publish(options)
    assert not output.exists()


def test_a_torn_tail_of_a_runner_that_died_is_not_in_the_output(
    options: BatchOptions, output: Path
) -> None:
    begin(options)
    (segment,) = segments(options)
    with (options.directory / segment).open("ab") as file:
        file.write(answer(9).output[:20])
    publish(options)
    assert sorted(lines(output)) == sorted(answered(0, 1, 2))


def test_a_file_that_no_row_names_is_removed(options: BatchOptions) -> None:
    begin(options)
    (options.directory / "part-000099.jsonl").write_bytes(b"of a gathering that was cut short")
    assert len(segments(options)) == 2
    opened(options).close()
    assert len(segments(options)) == 1


def test_of_several_runners_one_writes_the_output(options: BatchOptions, output: Path) -> None:
    with opened(options, shared=True) as one, opened(options, shared=True) as other:
        one.record([answer(0)])
        other.record([answer(1)])
        assert one.publish(2) == other.publish(2)
        assert sorted(lines(output)) == sorted(answered(0, 1))
    assert segments(options) == []


def test_the_segment_of_a_runner_that_lives_is_not_taken_from_it(
    options: BatchOptions, output: Path
) -> None:
    with opened(options, shared=True) as one, opened(options, shared=True) as other:
        other.record([answer(0), failure(1)])
        one.publish(2)
        one.forget_failed()
        other.record([answer(1)])
        one.publish(2)
    assert sorted(lines(output)) == sorted(answered(0, 1))


def test_who_wants_to_publish_meanwhile_is_told_to_ask_again(options: BatchOptions) -> None:
    from foundry_api.storage.lock import FileLock  # noqa: PLC0415 - of this test alone

    with opened(options) as journal:
        journal.record([answer(0)])
        with (
            FileLock(options.directory / "lock", timeout_s=0),
            pytest.raises(BatchInUse, match="another process holds the journal"),
        ):
            journal.publish(1)
        assert journal.publish(1).lines == 1


def test_answers_come_back_from_the_output_when_it_becomes_a_table(
    options: BatchOptions, tmp_path: Path, output: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    begin(options)
    publish(options)
    table = options_of(tmp_path, output_format="parquet")
    publish(table)
    assert parquet.read_table(output).column("custom_id").to_pylist() == ["n-0", "n-1", "n-2"]
    publish(options)
    assert sorted(lines(output)) == sorted(answered(0, 1, 2))


def test_a_table_has_the_text_and_the_whole_answer_of_each_line(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    options = options_of(tmp_path, "answers.parquet")
    begin(options, failed=True)
    with opened(options) as journal:
        assert journal.publish(3).lines == 2
    rows = parquet.read_table(tmp_path / "answers.parquet").to_pylist()
    assert [row["custom_id"] for row in rows] == ["n-0", "n-2"]
    assert rows[1]["content"] == "the answer to 2"
    assert json.loads(rows[1]["response"])["body"]["choices"]
    assert lines(options.errors_path) == [failure(1).output]
    before = (tmp_path / "answers.parquet").stat().st_mtime_ns
    publish(options)
    assert (tmp_path / "answers.parquet").stat().st_mtime_ns == before


def test_a_table_has_the_text_of_responses_and_none_of_embeddings(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    parts = [{"type": "output_text", "text": "one, "}, {"type": "output_text", "text": "two"}]
    output = [{"type": "reasoning"}, {"type": "message", "content": parts}]
    options = options_of(tmp_path, "answers.parquet")
    with opened(options) as journal:
        for index, body in enumerate([{"output": output}, {"output": []}, {"data": [1.5]}]):
            line = {"custom_id": f"n-{index}", "response": {"body": body}}
            told = json.dumps(line).encode()
            journal.record([msgspec.structs.replace(answer(index), output=told)])
        journal.publish(3)
    table = parquet.read_table(tmp_path / "answers.parquet")
    assert table.column("content").to_pylist() == ["one, two", None, None]


def test_a_table_that_is_gone_is_written_again(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    options, path = options_of(tmp_path, "answers.parquet"), tmp_path / "answers.parquet"
    begin(options)
    publish(options)
    path.unlink()
    publish(options)
    assert parquet.read_table(path).num_rows == 3


def test_a_table_of_many_long_answers_is_written_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("foundry_api.batch.journal.output.GROUP_BYTES", 300)
    options, path = options_of(tmp_path, "answers.parquet"), tmp_path / "answers.parquet"
    with opened(options) as journal:
        journal.record([answer(index) for index in range(10)])
        journal.publish(10)
    file = parquet.ParquetFile(path)
    assert (file.metadata.num_row_groups, file.metadata.num_rows) == (4, 10)
