"""The output and the error file of a batch: each is written whole, or not at all.

One segment that has all answers becomes the output by its name alone. Whatever dies between two
steps, the rows say where each answer lies, and the next `publish` goes on from there.
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
    parse_published,
    set_meta,
    transaction,
)
from foundry_api.batch.journal.segments import iter_answers, merge_segments
from foundry_api.batch.journal.statistics import count_results
from foundry_api.batch.journal.types import PublishedOutput
from foundry_api.storage.private_file import replace_atomically, sync_directory
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
    "output": "Put it back as it was. To begin anew, move it away, then give --restart.",
    "errors": "Move it away: the same command then writes it again.",
}


class OutputOwnership:
    """The output and the error file, known by their sizes and times.

    A file is noted as this batch's own before it gets its name. So whatever dies between two
    steps, what lies there under the name is known: the old file or the new one.

    Args:
        database: The journal.
        paths: Where each is.
    """

    def __init__(self, database: sqlite3.Connection, paths: Mapping[Role, Path]) -> None:
        self._database = database
        self._paths = paths

    def check_not_foreign(self) -> None:
        """Refuse to go on where that would replace what somebody else wrote.

        Raises:
            BatchMismatch: One of the files was changed since it was written.
            BatchStorageFailed: One is there without having been written by this batch.
        """
        for role, path in self._paths.items():
            if path.is_dir():
                raise BatchStorageFailed(f"{path} is a directory", hint="Name a file.")
            known = self._known_identities(role)
            identity = _get_file_identity(path)
            if identity is None or identity in known:
                continue
            if known:
                raise BatchMismatch(f"{path} is not as this batch left it", hint=HINTS[role])
            raise foreign_file_error(path)

    def take_ownership(self) -> None:
        """Take what is there now for this batch's own: it may be replaced."""
        self._database.execute("delete from own")
        for role in self._paths:
            self._record(role, self._paths[role])

    def replace(self, role: Role, draft: Path) -> None:
        """Let a file that is safe on the disk get its name."""
        with transaction(self._database):
            self._record(role, draft)
        replace_atomically(draft, self._paths[role])
        sync_directory(self._paths[role].parent)

    def remove(self, role: Role) -> None:
        """Have no such file."""
        path = self._paths[role]
        if path.exists():
            path.unlink()
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

    def _known_identities(self, role: Role) -> set[tuple[int, int]]:
        rows = self._database.execute("select size, time from own where role = ?", (role,))
        return {(size, time) for size, time in check_rows(rows, int, int)}


def foreign_file_error(path: Path) -> BatchStorageFailed:
    """The error for a file that is in the way of a batch."""
    return BatchStorageFailed(
        f"{path} is there, and was not written by this batch",
        hint="Name another file. With --restart it is replaced, and what is in it is lost.",
    )


def _get_file_identity(path: Path) -> tuple[int, int] | None:
    """What changes when somebody writes to a file; None without one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


GROUP_ROWS = 8192
GROUP_BYTES = 8 * 1024 * 1024
"""Rows of a group are in memory together; embeddings make long ones."""

COLUMNS = ("custom_id", "content", "response")


def write_parquet(lines: Iterable[bytes], path: Path) -> None:
    """Write answers as a table: what names them, their text, and the whole answer as JSON.

    Raises:
        BatchStorageFailed: pyarrow is not installed.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BatchStorageFailed(
            "Parquet needs pyarrow", hint="pip install 'foundry-api[batch]'"
        ) from error
    schema: Any = arrow.schema([(name, arrow.string()) for name in COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _iter_groups(lines):
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _iter_groups(lines: Iterable[bytes]) -> Iterator[list[dict[str, str | None]]]:
    group: list[dict[str, str | None]] = []
    size = 0
    for line in lines:
        group.append(_make_table_row(line))
        size += len(line)
        if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _make_table_row(line: bytes) -> dict[str, str | None]:
    response_line = msgspec.json.decode(line)
    return {
        "custom_id": response_line["custom_id"],
        "content": _response_text(response_line["response"]["body"]),
        "response": msgspec.json.encode(response_line["response"]).decode(),
    }


def _response_text(body: dict[str, Any]) -> str | None:
    """What a model said, of a chat completion or a response; None where it said nothing."""
    if choices := body.get("choices"):
        content: str | None = choices[0]["message"].get("content")
        return content
    parts = [part for item in body.get("output") or () for part in item.get("content") or ()]
    texts = [part["text"] for part in parts if part.get("type") == "output_text"]
    return "".join(texts) if texts else None


DRAFT = "draft"


class Publisher:
    """Writes the output and the error file. Use it under the lock of the directory.

    Args:
        database: The journal.
        options: Where to, and in which form.
        shelf: Where the answers lie.
        files: The files that are written.
        clock: Seconds since the epoch.
    """

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
        """Write what is not written. See `Journal.publish`."""
        self._files.check_not_foreign()
        row = get_meta(self._database, "published")
        if row is not None and self._is_current(before := parse_published(row)):
            return before
        self._segments.check_output_present()
        if self._is_parquet:
            self._write_table()
        else:
            self._write_lines()
        published = self._make_published(failed=self._write_errors())
        with transaction(self._database):
            self._files.commit()
            set_meta(self._database, "published", published)
            set_meta(self._database, "current", self._form)
        self._segments.remove_unused()
        return published

    def _is_current(self, published: PublishedOutput) -> bool:
        """Whether the files are there, and hold what is finished in the form that is wished."""
        return (
            get_meta(self._database, "current") == self._form
            and self._output.exists()
            and (published.errors is None or self._options.errors_path.exists())
        )

    def _make_published(self, *, failed: int) -> PublishedOutput:
        return PublishedOutput(
            output=self._output,
            lines=count_results(self._database).done,
            errors=self._options.errors_path if failed else None,
            failed=failed,
            at=self._wall_clock(),
        )

    @property
    def _form(self) -> list[object]:
        """What makes the files other ones, though the same lines are in them."""
        ordered = self._options.ordered and not self._is_parquet  # a table always is
        return [self._is_parquet, ordered, str(absolute_path(self._options.errors_path))]

    @property
    def _is_parquet(self) -> bool:
        chosen = self._options.output_format
        return chosen == "parquet" or (
            chosen == "auto" and self._options.output.endswith(".parquet")
        )

    def _write_lines(self) -> None:
        """Have all answers in one segment, and let it become the output."""
        number = self._segments.single_complete_segment(ordered=self._options.ordered)
        if number is None:
            number = merge_segments(self._database, self._segments)
        if self._segments.is_output(number):
            return  # only the error file is another one
        with transaction(self._database):
            set_meta(self._database, "whole", number)
        self._files.replace("output", self._segments.segment_path(number))

    def _write_table(self) -> None:
        """Write a table. The answers stay in the journal, or go back to it from the output."""
        output_segment = self._segments.output_segment
        if output_segment is not None and self._segments.is_output(output_segment):
            merge_segments(self._database, self._segments)
        delete_meta(self._database, "whole")
        with self._draft(self._output) as draft:
            write_parquet(iter_answers(self._database, self._segments), draft)
            self._files.replace("output", draft)

    def _write_errors(self) -> int:
        """Write the lines that failed; an old file goes if none did. How many there are."""
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
                os.fsync(file.fileno())
            self._files.replace("errors", draft)
        return count

    @contextmanager
    def _draft(self, path: Path) -> Generator[Path]:
        """Where a file is written before it gets its name; nothing is left of it after a failure.

        It lies in the user's own directory, so that its name is drawn at random, and kept for the
        next run to remove it if this one is killed.
        """
        leftover = get_meta_as(self._database, DRAFT, str)
        if leftover is not None:
            Path(leftover).unlink(missing_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with transaction(self._database):
            set_meta(self._database, DRAFT, str(absolute_path(draft)))
        try:
            yield draft
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
