"""A full disk: recorded results stay, and the failed call can be repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.types.errors import BatchStorageFailed
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

LINES = 40


@pytest.fixture
def options(tmp_path: Path) -> BatchOptions:
    return make_options(tmp_path)


class FullFile:
    """A file of which a part is written before the disk is full."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self.available_tokens = room

    def write(self, data: memoryview) -> int:
        if not self.available_tokens:
            raise OSError(28, "No space left on device")
        written: int = self._file.write(data[: self.available_tokens])
        self.available_tokens -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> None:
        """Behave like the wrapped file."""

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_a_failed_append_is_overwritten_by_the_next(options: BatchOptions, tmp_path: Path) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0)])
        number, segment = journal._segments._current or (0, None)
        assert segment is not None
        real, segment._file = segment._file, FullFile(segment._file, room=30)  # type: ignore[assignment]
        with pytest.raises(BatchStorageFailed, match="No space left"):
            journal.record([make_answer(1), make_failure(2)])
        assert journal.get_finished(0, 9) == {0: 7}, "all or nothing"
        segment._file = real
        assert journal.record([make_answer(1, "shorter"), make_failure(2)]) == 2
        assert list_segments(options) == [f"part-{number:06}.jsonl"]
        journal.publish(3)
    assert read_lines(tmp_path / "answers.jsonl") == [
        make_answer(0).output,
        make_answer(1, "shorter").output,
    ]


def test_a_partial_append_is_truncated_on_close(options: BatchOptions, tmp_path: Path) -> None:
    with open_journal(options) as journal:
        journal.record([make_answer(0)])
        _, segment = journal._segments._current or (0, None)
        assert segment is not None
        real, segment._file = segment._file, FullFile(segment._file, room=30)  # type: ignore[assignment]
        with pytest.raises(BatchStorageFailed):
            journal.record([make_answer(1)])
        segment._file = real
        journal.record([make_failure(1)])
        journal.publish(2)
    assert read_lines(tmp_path / "answers.jsonl") == [make_answer(0).output]


def test_a_segment_that_could_not_be_created_is_created_on_retry(
    options: BatchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path) -> None:
        raise OSError(28, "No space left on device", str(directory))

    with open_journal(options) as journal:
        with monkeypatch.context() as patch:
            patch.setattr("foundry_api.batch.journal.segments.sync_directory", full)
            with pytest.raises(BatchStorageFailed):
                journal.record([make_answer(0)])
        assert journal.record([make_answer(0)]) == 1
        journal.publish(1)
    assert list_segments(options) == []


def test_a_merge_on_a_full_disk_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_options(tmp_path, ordered=True)
    with open_journal(options) as journal:
        journal.record([make_answer(1), make_answer(0)])
        before = list_segments(options)
        with monkeypatch.context() as patch:

            def full(directory: Path) -> None:
                raise OSError(28, "No space left on device", str(directory))

            patch.setattr("foundry_api.batch.journal.segments.sync_directory", full)
            with pytest.raises(BatchStorageFailed):
                journal.publish(2)
        assert list_segments(options) == before
        journal.publish(2)
    assert read_lines(tmp_path / "answers.jsonl") == [make_answer(0).output, make_answer(1).output]


@pytest.mark.parametrize(
    ("step", "name"), [("write_parquet", "t.parquet"), ("os.fsync", "t.jsonl")]
)
def test_a_draft_on_a_full_disk_is_removed(
    step: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    options = make_options(tmp_path, name)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with open_journal(options) as journal:
        journal.record([make_answer(0), make_failure(1)])
        with monkeypatch.context() as patch:
            patch.setattr(f"foundry_api.batch.journal.output.{step}", full)
            with pytest.raises(BatchStorageFailed, match="No space left"):
                journal.publish(2)
        assert list(tmp_path.glob(".*")) == []
        journal.publish(2)
    assert read_lines(options.errors_path) == [make_failure(1).output]


def test_a_journal_on_a_full_disk_can_be_closed(options: BatchOptions) -> None:
    """Its runner then looks like one that died."""
    journal = open_journal(options)
    journal.record([make_answer(0)])
    journal._database.execute("pragma query_only = on")  # every write fails
    with pytest.raises(BatchStorageFailed):
        journal.record([make_answer(1)])
    journal.close()
    with open_journal(options) as later:
        assert later.get_finished(0, 2) == {0: 7}


LIMITED = """
import resource, sys
from pathlib import Path
from foundry_api.types.errors import BatchStorageFailed
from support.journal_factories import *

options, limit = make_options(Path(sys.argv[1]), ordered=True), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    with open_journal(options) as journal:
        for first in range(0, 40, 5):
            group = set(range(first, first + 5)) - set(journal.get_finished(first, 5))
            journal.record([
                make_failure(index, "x" * 900) if index % 8 == 1 else make_answer(index)
                for index in group
            ])
        journal.publish(40)
except BatchStorageFailed as error:
    assert "File too large" in str(error) or "disk" in str(error), error
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no process's files")
@pytest.mark.usefixtures("no_bytecode")
def test_a_batch_resumes_after_any_file_hit_a_size_limit(
    options: BatchOptions, tmp_path: Path
) -> None:
    """The limit doubles each time, so that the database and every written file hit it."""
    path = os.pathsep.join(path for path in sys.path if path)
    limit, ended = 1024, 7
    while ended:
        child = subprocess.run(
            [sys.executable, "-c", LIMITED, str(tmp_path), str(limit)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        ended, limit = child.returncode, 2 * limit
        assert ended in {0, 7}, child.stderr
    assert limit >= 64 * 1024, "the first limits must have been too small"
    failed = range(1, LINES, 8)
    expected = [make_answer(index).output for index in range(LINES) if index not in failed]
    assert read_lines(tmp_path / "answers.jsonl") == expected
    assert read_lines(options.errors_path) == [
        make_failure(index, "x" * 900).output for index in failed
    ]
    assert list_segments(options) == []
