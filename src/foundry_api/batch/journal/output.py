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

from foundry_api.batch.journal.database import forget, meta, meta_of, published_of, put, transaction
from foundry_api.batch.journal.segments import answers, gathered
from foundry_api.batch.journal.statistics import counted
from foundry_api.batch.journal.types import Published
from foundry_api.storage.private_file import move_into_place, synced_directory
from foundry_api.storage.sqlite import check_row, check_rows
from foundry_api.types.errors import BatchChanged, BatchStorageFailed
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from foundry_api.batch.journal.segments import Shelf
    from foundry_api.batch.types import BatchOptions

__all__ = ["OwnFiles", "Publisher", "Role", "not_written_here", "write_parquet"]


Role = Literal["output", "errors"]

HINTS: dict[Role, str] = {
    "output": "Put it back as it was. To begin anew, move it away, then give --restart.",
    "errors": "Move it away: the same command then writes it again.",
}


class OwnFiles:
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

    def refuse_foreign(self) -> None:
        """Refuse to go on where that would replace what somebody else wrote.

        Raises:
            BatchChanged: One of the files was changed since it was written.
            BatchStorageFailed: One is there without having been written by this batch.
        """
        for role, path in self._paths.items():
            if path.is_dir():
                raise BatchStorageFailed(f"{path} is a directory", hint="Name a file.")
            own = self._own(role)
            seen = _identity(path)
            if seen is None or seen in own:
                continue
            if own:
                raise BatchChanged(f"{path} is not as this batch left it", hint=HINTS[role])
            raise not_written_here(path)

    def adopt(self) -> None:
        """Take what is there now for this batch's own: it may be replaced."""
        self._database.execute("delete from own")
        for role in self._paths:
            self._note(role, self._paths[role])

    def place(self, role: Role, draft: Path) -> None:
        """Let a file that is safe on the disk get its name."""
        with transaction(self._database):
            self._note(role, draft)
        move_into_place(draft, self._paths[role])
        synced_directory(self._paths[role].parent)

    def remove(self, role: Role) -> None:
        """Have no such file."""
        path = self._paths[role]
        if path.exists():
            path.unlink()
            synced_directory(path.parent)

    def settle(self) -> None:
        """Forget the files that were replaced."""
        for role, path in self._paths.items():
            self._database.execute("delete from own where role = ?", (role,))
            self._note(role, path)

    def _note(self, role: Role, path: Path) -> None:
        identity = _identity(path)
        if identity is not None:
            self._database.execute("insert or ignore into own values (?, ?, ?)", (role, *identity))

    def _own(self, role: Role) -> set[tuple[int, int]]:
        rows = self._database.execute("select size, time from own where role = ?", (role,))
        return {(size, time) for size, time in check_rows(rows, int, int)}


def not_written_here(path: Path) -> BatchStorageFailed:
    """The error for a file that is in the way of a batch."""
    return BatchStorageFailed(
        f"{path} is there, and was not written by this batch",
        hint="Name another file. With --restart it is replaced, and what is in it is lost.",
    )


def _identity(path: Path) -> tuple[int, int] | None:
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
        for group in _groups(lines):
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _groups(lines: Iterable[bytes]) -> Iterator[list[dict[str, str | None]]]:
    group: list[dict[str, str | None]] = []
    size = 0
    for line in lines:
        group.append(_row(line))
        size += len(line)
        if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _row(line: bytes) -> dict[str, str | None]:
    told = msgspec.json.decode(line)
    return {
        "custom_id": told["custom_id"],
        "content": _text(told["response"]["body"]),
        "response": msgspec.json.encode(told["response"]).decode(),
    }


def _text(body: dict[str, Any]) -> str | None:
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
        shelf: Shelf,
        files: OwnFiles,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._options = options
        self._shelf = shelf
        self._files = files
        self._clock = clock
        self._output = options.output_path

    def publish(self) -> Published:
        """Write what is not written. See `Journal.publish`."""
        self._files.refuse_foreign()
        told = meta(self._database, "published")
        if told is not None and self._is_current(before := published_of(told)):
            return before
        self._shelf.refuse_gone()
        if self._is_parquet:
            self._write_table()
        else:
            self._write_lines()
        published = self._published(failed=self._write_errors())
        with transaction(self._database):
            self._files.settle()
            put(self._database, "published", published)
            put(self._database, "current", self._form)
        self._shelf.remove_unused()
        return published

    def _is_current(self, published: Published) -> bool:
        """Whether the files are there, and hold what is finished in the form that is wished."""
        return (
            meta(self._database, "current") == self._form
            and self._output.exists()
            and (published.errors is None or self._options.errors_path.exists())
        )

    def _published(self, *, failed: int) -> Published:
        return Published(
            output=self._output,
            lines=counted(self._database).done,
            errors=self._options.errors_path if failed else None,
            failed=failed,
            at=self._clock(),
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
        number = self._shelf.sole(ordered=self._options.ordered)
        if number is None:
            number = gathered(self._database, self._shelf)
        if self._shelf.is_output(number):
            return  # only the error file is another one
        with transaction(self._database):
            put(self._database, "whole", number)
        self._files.place("output", self._shelf.part(number))

    def _write_table(self) -> None:
        """Write a table. The answers stay in the journal, or go back to it from the output."""
        whole = self._shelf.whole
        if whole is not None and self._shelf.is_output(whole):
            gathered(self._database, self._shelf)
        forget(self._database, "whole")
        with self._draft(self._output) as draft:
            write_parquet(answers(self._database, self._shelf), draft)
            self._files.place("output", draft)

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
            self._files.place("errors", draft)
        return count

    @contextmanager
    def _draft(self, path: Path) -> Generator[Path]:
        """Where a file is written before it gets its name; nothing is left of it after a failure.

        It lies in the user's own directory, so that its name is drawn at random, and kept for the
        next run to remove it if this one is killed.
        """
        left = meta_of(self._database, DRAFT, str)
        if left is not None:
            Path(left).unlink(missing_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with transaction(self._database):
            put(self._database, DRAFT, str(absolute_path(draft)))
        try:
            yield draft
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
