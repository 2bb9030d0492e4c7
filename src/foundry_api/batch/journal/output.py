"""Publish the output and the error file of a batch, each whole or not at all.

If one segment has all the answers it becomes the output by being renamed. If the process dies
between two steps, the rows still say where each answer is, and the next `publish` resumes.
"""

from __future__ import annotations

import importlib
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.batch.journal.database import (
    delete_meta,
    get_meta,
    get_meta_as,
    set_meta,
    transaction,
)
from foundry_api.batch.journal.segments import iter_answers, merge_segments
from foundry_api.batch.journal.statistics import count_results
from foundry_api.batch.journal.types import PublishedOutput
from foundry_api.storage.private_file import (
    remove_file,
    replace_atomically,
    sync_directory,
    sync_file,
)
from foundry_api.storage.sqlite import check_row, check_rows
from foundry_api.types.errors import BatchMismatch, BatchStorageFailed
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from foundry_api.batch.journal.segments import SegmentStore
    from foundry_api.batch.types import BatchOptions

__all__ = ["OutputOwnership", "Publisher", "Role", "foreign_file_error", "write_parquet"]

Role = Literal["output", "errors"]

HINTS: dict[Role, str] = {
    "output": "Restore it. To start over, move it away, then give --restart.",
    "errors": "Move it away: the same command then writes it again.",
}
DRAFT = "draft"
# How long to wait for a program that reads the old output, on Windows: an editor or a viewer that
# loads it, a virus scanner.
PATIENCE_S = 3.0 if os.name == "nt" else 0.0

COLUMNS = ("custom_id", "content", "response")
# A row group is built in memory, and embeddings make long rows: limit both rows and bytes.
GROUP_ROWS = 8192
GROUP_BYTES = 8 * 1024 * 1024


class OutputOwnership:
    """Knows which output and error file this batch wrote, by their sizes and times.

    A file is recorded as this batch's own before it is renamed into place. If the process dies
    between the two steps, both the old and the new file are known.
    """

    def __init__(self, database: sqlite3.Connection, paths: Mapping[Role, Path]) -> None:
        self._database = database
        self._paths = paths

    def check_not_foreign(self) -> None:
        """Raise an error if an existing file was written, or changed, by anything else."""
        for role, path in self._paths.items():
            if path.is_dir():
                raise BatchStorageFailed(f"{path} is a directory", hint="Give a file name.")
            rows = self._database.execute("select size, time from own where role = ?", (role,))
            known = set(check_rows(rows, int, int))
            identity = _get_file_identity(path)
            if identity is None or identity in known:
                continue
            if known:
                raise BatchMismatch(f"{path} is not as this batch left it", hint=HINTS[role])
            raise foreign_file_error(path)

    def take_ownership(self) -> None:
        """Record the existing files as this batch's own, so that they may be replaced."""
        self._database.execute("delete from own")
        for role in self._paths:
            self._record(role, self._paths[role])

    def replace(self, role: Role, draft: Path) -> None:
        """Rename a draft, which is already synced to disk, to its final name."""
        with transaction(self._database):
            self._record(role, draft)
        try:
            replace_atomically(draft, self._paths[role], patience_s=PATIENCE_S)
        except PermissionError as error:
            raise _make_replace_error(self._paths[role], error) from error
        sync_directory(self._paths[role].parent)

    def remove(self, role: Role) -> None:
        path = self._paths[role]
        if path.exists():
            try:
                remove_file(path, patience_s=PATIENCE_S)
            except PermissionError as error:
                raise _make_replace_error(path, error) from error
            sync_directory(path.parent)

    def commit(self) -> None:
        """Forget the files that were replaced."""
        for role, path in self._paths.items():
            self._database.execute("delete from own where role = ?", (role,))
            self._record(role, path)

    def _record(self, role: Role, path: Path) -> None:
        identity = _get_file_identity(path)
        if identity is not None:
            self._database.execute("insert or ignore into own values (?, ?, ?)", (role, *identity))


def _make_replace_error(path: Path, error: PermissionError) -> BatchStorageFailed:
    remedy = f"Allow writing to {path.parent}"
    if os.name == "nt":
        remedy = "Close the program that has it open"
    return BatchStorageFailed(
        f"{path} cannot be replaced: {error.strerror}",
        hint=f"{remedy}, then run the same command: it writes the file from the answers it has.",
    )


def foreign_file_error(path: Path) -> BatchStorageFailed:
    return BatchStorageFailed(
        f"{path} exists, and was not written by this batch",
        hint="Choose another file. With --restart it is replaced, and what is in it is lost.",
    )


def _get_file_identity(path: Path) -> tuple[int, int] | None:
    """Return the size and time of a file, which change when it is written to."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


class Publisher:
    """Writes the output and the error file. Use it under the lock of the directory."""

    def __init__(
        self,
        database: sqlite3.Connection,
        options: BatchOptions,
        *,
        segments: SegmentStore,
        files: OutputOwnership,
        wall_clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._options = options
        self._segments = segments
        self._files = files
        self._wall_clock = wall_clock
        self._output = options.output_path

    def publish(self) -> PublishedOutput:
        """Write the files, unless they are current."""
        self._files.check_not_foreign()
        before = get_meta_as(self._database, "published", PublishedOutput)
        if before is not None and self._is_current(before):
            return before
        self._segments.check_output_present()
        if self._is_parquet:
            self._write_table()
        else:
            self._write_lines()
        failed = self._write_errors()
        published = PublishedOutput(
            output=self._output,
            lines=count_results(self._database).done,
            errors=self._options.errors_path if failed else None,
            failed=failed,
            at=self._wall_clock(),
        )
        with transaction(self._database):
            self._files.commit()
            set_meta(self._database, "published", published)
            set_meta(self._database, "current", self._layout)
        self._segments.remove_unused()
        return published

    def _is_current(self, published: PublishedOutput) -> bool:
        return (
            get_meta(self._database, "current") == self._layout
            and self._output.exists()
            and (published.errors is None or self._options.errors_path.exists())
        )

    @property
    def _layout(self) -> list[object]:
        """The options that change the files even if the results stay the same."""
        ordered = self._options.ordered and not self._is_parquet  # a table always is
        return [self._is_parquet, ordered, str(absolute_path(self._options.errors_path))]

    @property
    def _is_parquet(self) -> bool:
        chosen = self._options.output_format
        return chosen == "parquet" or (
            chosen == "auto" and self._options.output.endswith(".parquet")
        )

    def _write_lines(self) -> None:
        """Rename the segment with all answers to the output; merge several into one first."""
        number = self._segments.find_complete_segment(ordered=self._options.ordered)
        if number is None:
            number = merge_segments(self._database, self._segments)
        if self._segments.is_output(number):
            return  # only the error file differs
        # The row comes first: if the process dies before the rename, the segment's own path still
        # exists, and that is where `get_path` looks first.
        with transaction(self._database):
            set_meta(self._database, "whole", number)
        self._files.replace("output", self._segments.get_part_path(number))

    def _write_table(self) -> None:
        # A table does not contain the exact answers, so these stay in the journal. An output in
        # JSON lines has the only copy; it is merged back before the table replaces it.
        output_segment = self._segments.output_segment
        if output_segment is not None and self._segments.is_output(output_segment):
            merge_segments(self._database, self._segments)
        delete_meta(self._database, "whole")
        with self._draft(self._output) as draft:
            write_parquet(iter_answers(self._database, self._segments), draft)
            self._files.replace("output", draft)

    def _write_errors(self) -> int:
        """Write the failed lines, or remove the file if none failed; return their number."""
        path = self._options.errors_path
        count: int = self._database.execute("select count(*) from failure").fetchone()[0]
        if not count:
            self._files.remove("errors")
            return 0
        with self._draft(path) as draft:
            with draft.open("xb") as file:
                for row in self._database.execute("select output from failure order by idx"):
                    (output,) = check_row(row, bytes)
                    file.write(output + b"\n")
                file.flush()
                sync_file(file.fileno())
            self._files.replace("errors", draft)
        return count

    @contextmanager
    def _draft(self, path: Path) -> Generator[Path]:
        """Yield the path of a temporary file, which is removed after a failure."""
        previous = get_meta_as(self._database, DRAFT, str)
        if previous is not None:  # the run that wrote it was killed
            Path(previous).unlink(missing_ok=True)
        # It lies in the user's own directory, so a fixed name could be that of the user's file.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with transaction(self._database):
            set_meta(self._database, DRAFT, str(absolute_path(draft)))
        try:
            yield draft
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def write_parquet(lines: Iterable[bytes], path: Path) -> None:
    """Write answers as a table of custom_id, text, and the whole response as JSON."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BatchStorageFailed("Parquet needs pyarrow", hint="pip install pyarrow") from error
    schema: Any = arrow.schema([(name, arrow.string()) for name in COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _iter_groups(lines):
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))
    # The writer has closed the file without syncing it.
    with path.open("rb+") as file:
        sync_file(file.fileno())


def _iter_groups(lines: Iterable[bytes]) -> Iterator[list[dict[str, str | None]]]:
    group: list[dict[str, str | None]] = []
    size = 0
    for line in lines:
        response_line = msgspec.json.decode(line)
        group.append(
            {
                "custom_id": response_line["custom_id"],
                "content": _extract_text(response_line["response"]["body"]),
                "response": msgspec.json.encode(response_line["response"]).decode(),
            }
        )
        size += len(line)
        if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _extract_text(body: dict[str, Any]) -> str | None:
    """Return the text of a chat completion or a response; None without any."""
    if choices := body.get("choices"):
        content: str | None = choices[0]["message"].get("content")
        return content
    parts = [part for item in body.get("output") or () for part in item.get("content") or ()]
    texts = [part["text"] for part in parts if part.get("type") == "output_text"]
    return "".join(texts) if texts else None
