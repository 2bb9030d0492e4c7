"""What a journal is of: the input that it was begun with, and how that is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.journal.keeping import forget, meta_of, put
from foundry_api.errors import BatchChanged

if TYPE_CHECKING:
    import sqlite3

    from foundry_api.batch.options import BatchOptions

__all__ = ["keep_content"]


def keep_content(
    database: sqlite3.Connection,
    options: BatchOptions,
    content: tuple[str | None, str],
    *,
    alone: bool,
) -> None:
    """Keep what is to be answered. While nothing is, another input may take its place.

    Args:
        database: The journal.
        options: What the batch is told.
        content: The input's fingerprint, None if it was not read; and that of what makes requests.
        alone: Whether nobody else works on the batch; who does is answering what it was begun with.

    Raises:
        BatchChanged: Lines of another input are answered, or of this one asked otherwise.
    """
    before = meta_of(database, "content", tuple[str | None, str])
    if before is not None and (not alone or _any_finished(database)):
        _compare(options, before, content)
    if before != content:
        put(database, "content", content)
        forget(database, "checked", "total")


def _compare(
    options: BatchOptions, before: tuple[str | None, str], content: tuple[str | None, str]
) -> None:
    if before[1] != content[1]:
        raise BatchChanged(
            "the model, the template or another option that makes the requests is not what"
            f" the journal in {options.directory} was begun with"
        )
    if None not in {content[0], before[0]} and content[0] != before[0]:
        raise BatchChanged(
            f"{options.input.path} is not what it was when its first lines were answered"
        )


def _any_finished(database: sqlite3.Connection) -> bool:
    return database.execute("select 1 from result limit 1").fetchone() is not None
