"""The output and the error file of a batch: each is written whole, or not at all.

One segment that has all answers becomes the output by its name alone. Whatever dies between two
steps, the rows say where each answer lies, and the next `publish` goes on from there.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.batch.journal.database import transaction
from foundry_api.batch.journal.figuring import counted
from foundry_api.batch.journal.gathering import answers, gathered
from foundry_api.batch.journal.keeping import forget, meta, meta_of, published_of, put
from foundry_api.batch.journal.tables import write_parquet
from foundry_api.batch.journal.told import Published
from foundry_api.local_path import absolute_path
from foundry_api.service.sqlite_damage import check_row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator

    from foundry_api.batch.journal.owning import OwnFiles
    from foundry_api.batch.journal.shelf import Shelf
    from foundry_api.batch.options import BatchOptions

__all__ = ["Publisher"]

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
