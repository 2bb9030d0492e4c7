"""The output and the error file of a batch: each is written whole, or not at all.

Answers move once: into one segment that has all of them in their final order, whose rows are
committed before it becomes the output by its name alone. Whatever dies between two steps, the rows
say where each answer lies, and the next `publish` goes on from there.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.journal.database import transaction
from foundry_api.batch.journal.segments import synced_directory
from foundry_api.errors import BatchStorageFailed
from foundry_api.service.private_file import move_into_place

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["gathered", "lines_of", "write_errors", "write_parquet"]

CHUNK = 4096
ROW_GROUP = 8192
COLUMNS = ("custom_id", "content", "response")


def gathered(
    database: sqlite3.Connection,
    path_of: Callable[[int], Path],
    target: Path,
    number: int,
    *,
    ordered: bool,
) -> None:
    """Have all answers in one new segment, in their order, and the rows say so."""
    moved: list[tuple[int, int, int]] = []
    with target.open("wb") as file:
        target.chmod(0o600)
        for index, line in lines_of(database, path_of, ordered=ordered):
            moved.append((number, file.tell(), index))
            file.write(line + b"\n")
            if len(moved) >= CHUNK:
                _note(database, moved)
        _note(database, moved)
        file.flush()
        os.fsync(file.fileno())
    synced_directory(target.parent)
    with transaction(database):
        database.execute("insert or ignore into segment values (?, ?)", (number, target.name))
        database.execute(
            "update result set segment = moved.segment, offset = moved.offset from moved"
            " where moved.idx = result.idx"
        )
        database.execute(
            "insert or replace into meta values ('whole', ?)", (msgspec.json.encode(number),)
        )
    database.execute("drop table moved")


def _note(database: sqlite3.Connection, moved: list[tuple[int, int, int]]) -> None:
    database.execute(
        "create temp table if not exists moved (segment int, offset int, idx integer primary key)"
    )
    with transaction(database):
        database.executemany("insert or replace into moved values (?, ?, ?)", moved)
    moved.clear()


def lines_of(
    database: sqlite3.Connection, path_of: Callable[[int], Path], *, ordered: bool
) -> Iterator[tuple[int, bytes]]:
    """The answers with their indexes: in the order of the input, or as they finished."""
    order = "idx" if ordered else "segment, offset"
    rows = database.execute(
        f"select idx, segment, offset, length from result where not failed order by {order}"  # noqa: S608 - one of two orders
    )
    files: dict[int, BinaryIO] = {}
    try:
        for index, segment, offset, length in rows:
            if segment not in files:
                files[segment] = path_of(segment).open("rb")
            file = files[segment]
            if file.tell() != offset:
                file.seek(offset)
            line = file.read(length + 1)
            if len(line) != length + 1 or not line.endswith(b"\n"):
                raise BatchStorageFailed(
                    f"{path_of(segment)} does not hold what the journal says",
                    hint="Something else wrote to it. Begin again with --restart.",
                )
            yield index, line[:-1]
    finally:
        rows.close()
        for file in files.values():
            file.close()


def write_errors(database: sqlite3.Connection, path: Path) -> int:
    """Write the lines that failed, or remove an old file if none did. How many there are."""
    rows = database.execute("select output from failure order by idx")
    draft = path.with_name(f".{path.name}.draft")
    count = 0
    with draft.open("wb") as file:
        for (output,) in rows:
            file.write(output + b"\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    if count:
        move_into_place(draft, path)
    else:
        draft.unlink()
        path.unlink(missing_ok=True)
    synced_directory(path.resolve().parent)
    return count


def write_parquet(lines: Iterable[tuple[int, bytes]], path: Path) -> None:
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
    schema: Any = arrow.schema(
        [(name, arrow.string()) for name in ("custom_id", "content", "response")]
    )
    draft = path.with_name(f".{path.name}.draft")
    group: list[dict[str, str | None]] = []
    with parquet.ParquetWriter(draft, schema) as writer:
        for _, line in lines:
            group.append(_row(line))
            if len(group) >= ROW_GROUP:
                writer.write_table(arrow.Table.from_pylist(group, schema=schema))
                group = []
        writer.write_table(arrow.Table.from_pylist(group, schema=schema))
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    move_into_place(draft, path)
    synced_directory(path.resolve().parent)


def _row(line: bytes) -> dict[str, str | None]:
    told = msgspec.json.decode(line)
    choices = told["response"]["body"].get("choices")
    content = choices[0]["message"].get("content") if choices else None
    return {
        "custom_id": told["custom_id"],
        "content": content,
        "response": msgspec.json.encode(told["response"]).decode(),
    }
