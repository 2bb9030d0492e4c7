"""Published files are complete, contain each line once, and never replace the user's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from foundry_api.batch.journal import output as output_module
from foundry_api.batch.journal import read_status
from foundry_api.batch.journal.output import OutputOwnership, Role
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
    from foundry_api.batch.types import BatchOptions

JOURNAL = ["journal.sqlite", "lock"]


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    return make_options(tmp_path)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    return tmp_path / "answers.errors.jsonl"


def answered(*indexes: int) -> list[bytes]:
    return [make_answer(index).output for index in indexes]


def publish(options: BatchOptions, total: int = 3, **others: Any) -> None:
    with open_journal(options, **others) as journal:
        journal.publish(total)


def begin(options: BatchOptions, *, failed: bool = False) -> None:
    """Finish three lines, not in the order of the input."""
    with open_journal(options) as journal:
        journal.record(
            [make_answer(2), make_failure(1) if failed else make_answer(1), make_answer(0)]
        )


def test_a_single_segment_becomes_the_output_by_rename(options: BatchOptions, output: Path) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(2), make_answer(1), make_answer(0)])
        (segment,) = list_segments(options)
        before = (options.directory / segment).stat().st_ino
        published = journal.publish(3)
    assert (published.output, published.lines, published.errors) == (output, 3, None)
    assert read_lines(output) == answered(2, 1, 0), "in the order they finished"
    assert output.stat().st_ino == before
    assert sorted(path.name for path in options.directory.iterdir()) == JOURNAL


def test_ordered_keeps_the_order_of_the_input(tmp_path: Path, output: Path) -> None:
    options = make_options(tmp_path, ordered=True)
    begin(options)
    publish(options)
    assert read_lines(output) == answered(0, 1, 2)
    assert sorted(path.name for path in options.directory.iterdir()) == JOURNAL


def test_segments_of_several_runs_are_merged(
    options: BatchOptions, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.batch.journal.segments.MAX_OPEN_SEGMENTS", 2)
    monkeypatch.setattr("foundry_api.batch.journal.segments.BATCH_ROWS", 3)
    for run in range(4):
        with open_journal(options) as journal:
            journal.record([make_answer(index) for index in range(run, 8, 4)])
    publish(options, 8)
    assert read_lines(output) == answered(*range(8))
    assert list_segments(options) == []


def test_failed_lines_go_to_the_error_file(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    begin(options, failed=True)
    with open_journal(options) as journal:
        published = journal.publish(3)
    assert (published.errors, published.failed, published.lines) == (errors, 1, 2)
    assert (read_lines(errors), len(read_lines(output))) == ([make_failure(1).output], 2)


def test_a_user_file_named_like_a_draft_is_not_touched(
    tmp_path: Path, options: BatchOptions, errors: Path
) -> None:
    mine = tmp_path / ".answers.errors.jsonl.draft"
    mine.write_bytes(b"mine")
    begin(options, failed=True)
    publish(options)
    assert mine.read_bytes() == b"mine"
    assert read_lines(errors) == [make_failure(1).output]


def test_the_draft_of_a_killed_run_is_removed_by_the_next(
    tmp_path: Path, options: BatchOptions, errors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(options, failed=True)

    replace = OutputOwnership.replace

    def die(files: OutputOwnership, role: Role, draft: Path) -> None:
        if role == "errors":
            raise SystemExit
        replace(files, role, draft)

    with monkeypatch.context() as patch, open_journal(options) as journal:
        patch.setattr(OutputOwnership, "replace", die)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            journal.publish(3)
    assert list(tmp_path.glob(".answers.errors.jsonl.*"))
    publish(options)
    assert not list(tmp_path.glob(".answers.errors.jsonl.*"))
    assert read_lines(errors) == [make_failure(1).output]


def test_the_error_file_is_removed_when_no_line_fails(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    begin(options, failed=True)
    publish(options)
    with open_journal(options) as journal:
        journal.forget_failed()
        journal.record([make_answer(1)])
        assert journal.publish(3).errors is None
    assert not errors.exists()
    assert sorted(read_lines(output)) == sorted(answered(0, 1, 2))


def test_lines_that_fail_again_report_the_new_error(options: BatchOptions, errors: Path) -> None:
    begin(options, failed=True)
    publish(options)
    with open_journal(options) as journal:
        journal.forget_failed()
        journal.record([make_failure(1, "still too much to do")])
        journal.publish(3)
    assert read_lines(errors) == [make_failure(1, "still too much to do").output]


def test_a_current_output_is_not_written_again(options: BatchOptions, output: Path) -> None:
    begin(options)
    publish(options)
    before = output.stat()
    publish(options)
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_batch_without_answers_has_an_empty_output(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    with open_journal(options) as journal:
        journal.record([make_failure(0)])
        journal.publish(1)
    assert (read_lines(output), read_lines(errors)) == ([], [make_failure(0).output])
    with open_journal(make_options(options.directory, "none.jsonl")) as journal:
        assert journal.publish(0).lines == 0


def test_an_incomplete_batch_is_not_published(options: BatchOptions, output: Path) -> None:
    begin(options)
    with open_journal(options) as journal, pytest.raises(BatchStorageFailed, match="not complete"):
        journal.publish(4)
    assert not output.exists()


def test_changing_the_order_rewrites_the_output(options: BatchOptions, output: Path) -> None:
    begin(options)
    publish(options)
    publish(make_options(output.parent, ordered=True))
    assert read_lines(output) == answered(0, 1, 2)


def test_a_renamed_error_file_is_written_without_the_output(
    options: BatchOptions, tmp_path: Path, output: Path
) -> None:
    begin(options, failed=True)
    publish(options)
    before, elsewhere = output.stat().st_ino, tmp_path / "new" / "failed.jsonl"
    elsewhere.parent.mkdir()
    publish(make_options(tmp_path, errors=str(elsewhere)))
    assert read_lines(elsewhere) == [make_failure(1).output]
    assert output.stat().st_ino == before, "the output is not written again"


def test_a_missing_error_file_is_written_again(options: BatchOptions, errors: Path) -> None:
    begin(options, failed=True)
    publish(options)
    errors.unlink()
    publish(options)
    assert read_lines(errors) == [make_failure(1).output]


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.errors.jsonl"])
@pytest.mark.parametrize("failed", [True, False])
def test_an_existing_file_is_neither_replaced_nor_removed(
    name: str, *, failed: bool, options: BatchOptions, tmp_path: Path
) -> None:
    existing = tmp_path / name
    existing.write_text("mine\n", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
        open_journal(options)
    existing.unlink()
    begin(options, failed=failed)
    existing.write_text("mine\n", encoding="utf-8")
    with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
        publish(options)
    assert existing.read_text(encoding="utf-8") == "mine\n"


def test_a_file_created_during_the_run_is_not_replaced(options: BatchOptions, output: Path) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0)])
        output.write_text("mine\n", encoding="utf-8")
        with pytest.raises(BatchStorageFailed, match="was not written by this batch"):
            journal.publish(1)
        output.unlink()
        journal.publish(1)
    assert read_lines(output) == answered(0)


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.errors.jsonl"])
def test_a_changed_output_is_refused(name: str, options: BatchOptions, tmp_path: Path) -> None:
    begin(options, failed=True)
    publish(options)
    changed = tmp_path / name
    before = changed.read_bytes()
    changed.write_bytes(b"mine\n")
    with pytest.raises(BatchMismatch, match=f"{name} is not as this batch left it") as caught:
        open_journal(options)
    assert caught.value.hint
    assert changed.read_bytes() == b"mine\n"
    status = read_status(options.directory)
    assert status.counts.finished == 3
    changed.write_bytes(before)  # the same content, with another time
    with pytest.raises(BatchMismatch):
        open_journal(options)


def test_a_removed_output_with_the_answers_is_refused(options: BatchOptions, output: Path) -> None:
    begin(options)
    publish(options)
    output.unlink()
    with pytest.raises(BatchMismatch, match="is gone, and the answers with it"):
        open_journal(options)
    open_journal(options, restart=True).close()


def test_restart_replaces_existing_files_even_if_stopped_between(
    options: BatchOptions, output: Path, errors: Path
) -> None:
    for path in (output, errors):
        path.write_text("old\n", encoding="utf-8")
    with open_journal(options, restart=True) as journal:
        journal.record([make_answer(0)])
    assert output.read_text(encoding="utf-8") == "old\n", "until there is a new output"
    with open_journal(options) as journal:  # resumes without restart
        journal.record([make_failure(1)])
        journal.publish(2)
    assert (read_lines(output), read_lines(errors)) == (answered(0), [make_failure(1).output])


def test_a_directory_is_refused_as_output(options: BatchOptions, output: Path) -> None:
    output.mkdir()
    with pytest.raises(BatchStorageFailed, match="is a directory"):
        open_journal(options)


def test_an_overwritten_or_missing_segment_is_not_published(tmp_path: Path, output: Path) -> None:
    options = make_options(tmp_path, ordered=True)
    begin(options)
    (segment,) = list_segments(options)
    (options.directory / segment).write_bytes(b"x")
    with pytest.raises(BatchStorageFailed, match="does not hold what the journal says"):
        publish(options)
    (options.directory / segment).unlink()
    with pytest.raises(BatchStorageFailed, match="is gone, and answers with it"):
        publish(options)
    assert not output.exists()


def test_a_partial_line_of_a_dead_runner_is_not_published(
    options: BatchOptions, output: Path
) -> None:
    begin(options)
    (segment,) = list_segments(options)
    with (options.directory / segment).open("ab") as file:
        file.write(make_answer(9).output[:20])
    publish(options)
    assert sorted(read_lines(output)) == sorted(answered(0, 1, 2))


def test_a_segment_without_a_row_is_removed(options: BatchOptions) -> None:
    begin(options)
    (options.directory / "part-000099.jsonl").write_bytes(b"of an interrupted merge")
    assert len(list_segments(options)) == 2
    open_journal(options).close()
    assert len(list_segments(options)) == 1


def test_one_of_several_runners_writes_the_output(options: BatchOptions, output: Path) -> None:
    with open_journal(options, shared=True) as one, open_journal(options, shared=True) as other:
        one.record([make_answer(0)])
        other.record([make_answer(1)])
        assert one.publish(2) == other.publish(2)
        assert sorted(read_lines(output)) == sorted(answered(0, 1))
    assert list_segments(options) == []


def test_the_segment_of_a_live_runner_is_not_renamed(options: BatchOptions, output: Path) -> None:
    with open_journal(options, shared=True) as one, open_journal(options, shared=True) as other:
        other.record([make_answer(0), make_failure(1)])
        one.publish(2)
        one.forget_failed()
        other.record([make_answer(1)])
        one.publish(2)
    assert sorted(read_lines(output)) == sorted(answered(0, 1))


@pytest.mark.parametrize("method", ["replace", "unlink"])
def test_a_file_that_a_program_holds_open_is_named(
    options: BatchOptions, output: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Windows neither replaces nor removes such a file."""
    begin(options, failed=True)
    publish(options)
    held = {"replace": output, "unlink": options.errors_path}[method]
    real = getattr(Path, method)

    def refuse(path: Path, *arguments: Any, **others: Any) -> Any:
        if held in {path, *arguments}:
            raise PermissionError(13, "Access is denied", str(path))
        return real(path, *arguments, **others)

    with open_journal(options) as journal:
        journal.forget_failed()
        journal.record([make_answer(1)])
        with monkeypatch.context() as patch:
            patch.setattr(output_module, "PATIENCE_S", 0.0)
            patch.setattr(Path, method, refuse)
            with pytest.raises(BatchStorageFailed, match="cannot be replaced") as e:
                journal.publish(3)
        assert str(held) in e.value.message
        assert "run the same command" in e.value.hint
        assert "space" not in e.value.hint
        journal.publish(3)
    assert not options.errors_path.exists()


def test_publishing_while_another_publishes_raises_batch_in_use(options: BatchOptions) -> None:
    from foundry_api.storage.lock import FileLock  # noqa: PLC0415 - only for this test

    with open_journal(options) as journal:
        journal.record([make_answer(0)])
        with (
            FileLock(options.directory / "lock", timeout_s=0),
            pytest.raises(BatchInUse, match="another process holds the journal"),
        ):
            journal.publish(1)
        assert journal.publish(1).lines == 1


def test_answers_are_merged_back_when_the_output_becomes_a_table(
    options: BatchOptions, tmp_path: Path, output: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    begin(options)
    publish(options)
    table = make_options(tmp_path, output_format="parquet")
    publish(table)
    assert parquet.read_table(output).column("custom_id").to_pylist() == ["n-0", "n-1", "n-2"]
    publish(options)
    assert sorted(read_lines(output)) == sorted(answered(0, 1, 2))


def test_a_table_has_the_text_and_the_whole_response(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    options = make_options(tmp_path, "answers.parquet")
    begin(options, failed=True)
    with open_journal(options) as journal:
        assert journal.publish(3).lines == 2
    rows = parquet.read_table(tmp_path / "answers.parquet").to_pylist()
    assert [row["custom_id"] for row in rows] == ["n-0", "n-2"]
    assert rows[1]["content"] == "the answer to 2"
    assert json.loads(rows[1]["response"])["body"]["choices"]
    assert read_lines(options.errors_path) == [make_failure(1).output]
    before = (tmp_path / "answers.parquet").stat().st_mtime_ns
    publish(options)
    assert (tmp_path / "answers.parquet").stat().st_mtime_ns == before


def test_a_table_has_text_for_responses_but_not_embeddings(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    parts = [{"type": "output_text", "text": "one, "}, {"type": "output_text", "text": "two"}]
    output = [{"type": "reasoning"}, {"type": "message", "content": parts}]
    options = make_options(tmp_path, "answers.parquet")
    with open_journal(options) as journal:
        for index, body in enumerate([{"output": output}, {"output": []}, {"data": [1.5]}]):
            line = {"custom_id": f"n-{index}", "response": {"body": body}}
            encoded = json.dumps(line).encode()
            journal.record([msgspec.structs.replace(make_answer(index), output=encoded)])
        journal.publish(3)
    table = parquet.read_table(tmp_path / "answers.parquet")
    assert table.column("content").to_pylist() == ["one, two", None, None]


def test_a_missing_table_is_written_again(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    options, path = make_options(tmp_path, "answers.parquet"), tmp_path / "answers.parquet"
    begin(options)
    publish(options)
    path.unlink()
    publish(options)
    assert parquet.read_table(path).num_rows == 3


def test_a_table_of_long_answers_is_written_in_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("foundry_api.batch.journal.output.GROUP_BYTES", 300)
    options, path = make_options(tmp_path, "answers.parquet"), tmp_path / "answers.parquet"
    with open_journal(options) as journal:
        journal.record([make_answer(index) for index in range(10)])
        journal.publish(10)
    file = parquet.ParquetFile(path)
    assert (file.metadata.num_row_groups, file.metadata.num_rows) == (4, 10)
