"""CSV: a row of values for each prompt, under a row of names."""

from __future__ import annotations

import csv
import re
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, cast

from foundry_api.batch.sources.base import TOO_LONG, Source, validate_custom_id
from foundry_api.batch.sources.files import (
    MAX_LINE_BYTES,
    BadLine,
    InputReader,
    iter_line_pieces,
    skip_rest_of_line,
)
from foundry_api.batch.sources.lines import decode_text
from foundry_api.batch.sources.prompts import PromptBuilder
from foundry_api.batch.types import Line
from foundry_api.types.errors import BatchInputInvalid, InvalidRequest

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Sequence

    from foundry_api.batch.sources.files import InputOrigin
    from foundry_api.batch.types import BatchRequest, InputOptions

__all__ = ["INVALID_ROW", "CsvLineReader", "CsvRows"]


INVALID_ROW = f"{TOO_LONG}, or a quote in it is never closed"


class CsvLineReader:
    """The lines, and what the current row is made of. A row that is too long is not held.

    Of such a row only whether a quote is open is told further, which is how its end is found.

    Args:
        file: What they are read from.

    Attributes:
        is_beyond: Whether the current row is too long.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._pieces: list[bytes] = []
        self._size = 0
        self.is_beyond = False

    def start_row(self) -> None:
        """Another row begins."""
        self._pieces.clear()
        self._size = 0
        self.is_beyond = False

    @property
    def content(self) -> bytes:
        """The row's bytes without its end, or a digest of one that is too long."""
        return b"".join(self._pieces).rstrip(b"\r\n")

    def __iter__(self) -> Iterator[str]:
        for piece in iter_line_pieces(self._file):
            self._size += len(piece)
            if self._size > MAX_LINE_BYTES:
                self.is_beyond = True
                yield self._skip_row(piece)
            else:
                self._pieces.append(piece)
                yield piece.decode("latin-1")

    def _skip_row(self, piece: bytes) -> str:
        digest, quotes = skip_rest_of_line(self._file, piece)
        self._pieces.append(digest)
        self._pieces = [blake2b(b"".join(self._pieces), digest_size=16).digest()]
        return '"' if quotes % 2 else ""


if TYPE_CHECKING:
    Row = tuple[str, ...]


_SEPARATORS = ",;\t"
_EXCEL = re.compile(r'"?sep=([^"\w\s]|\t)"?[,;\t]*', re.IGNORECASE)
"""A row of Excel's that names the separator, ahead of the one with the columns' names."""


class CsvRows(Source):
    """An input with a prompt, or the values of one, in each row. `Line.raw` is the row.

    The first row names the columns. Values are separated by commas, semicolons or tabs: by those
    that the first row has most of, or by what a row `sep=;` ahead of it says.

    Args:
        origin: Where its bytes come from.
        options: What is made of a row.

    Raises:
        BatchInputInvalid: The file has no header, no such column, or the options do not fit.
    """

    unit: ClassVar[str] = "row"

    def __init__(self, origin: InputOrigin, options: InputOptions) -> None:
        with InputReader(origin.peek(), origin.name) as reader, reader.translate_errors():
            table = _Table(reader)
            header = _read_header(table, origin.name)
        super().__init__(origin, options, ("csv", header, table.separator))
        self._header = header
        self._prompts = PromptBuilder(options, header, self.name)

    def read_lines(self, reader: InputReader) -> Iterator[Line]:
        """The rows that are not blank."""
        table = _Table(reader)
        rows, lines = table.iter_rows(), table.lines
        next(rows)
        index, salt, to_int = 0, self._salt, int.from_bytes
        for raw in rows:
            if raw:
                digest = blake2b(lines.content, digest_size=8, salt=salt).digest()
                yield Line(index, index + 1, to_int(digest, "little") >> 1, raw)
                index += 1

    def get_custom_id(self, line: Line) -> str | None:
        """What the row says, or `row-N` where there is no column for that."""
        name, row = self._prompts.id_column, line.raw
        if name is None:
            return _make_default_id(line)
        if isinstance(row, BadLine) or len(cast("Row", row)) != len(self._header):
            return None
        try:
            value = row[self._header.index(name)].encode("latin-1")
            return validate_custom_id(decode_text(value, name))
        except InvalidRequest:
            return None

    def _parse_request(self, line: Line) -> BatchRequest:
        return self._prompts.make_request(self._decode_values(line.raw), _make_default_id(line))

    def _decode_values(self, row: Row) -> list[str]:
        """The row, with text where it is used."""
        values, header = list(row), self._header
        if len(values) != len(header):
            raise InvalidRequest(
                f"it has {_format_count(values, 'value')} for {_format_count(header, 'column')}",
                hint="A value with the separator in it is put in quotes, and a quote is doubled.",
            )
        for place in self._prompts.places:
            if not values[place].isascii():
                values[place] = decode_text(values[place].encode("latin-1"), header[place])
        return values


class _Table:
    """The rows of a file. They are split as if they were Latin-1, which any bytes are.

    The syntax of CSV is ASCII, so the values that are used can become text when they are used.
    """

    def __init__(self, reader: InputReader) -> None:
        # The standard library's own bound, 128 KiB of one value, is one for all of the process.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES + 1))
        self.lines = CsvLineReader(reader.file)
        first = self._next_line()
        separator_row = _EXCEL.fullmatch(first.rstrip("\r\n"))
        if separator_row is not None:
            self.lines.start_row()
            first = self._next_line()
        self._first = first
        self.separator: str = (
            separator_row[1] if separator_row else max(_SEPARATORS, key=first.count)
        )

    def _next_line(self) -> str:
        return next((line for line in self.lines if line.strip()), "")

    def iter_rows(self) -> Iterator[Row | BadLine]:
        """The rows from the header on; of a blank line, an empty one."""
        lines = self.lines
        rows = csv.reader(chain([self._first], lines), delimiter=self.separator, strict=True)
        while True:
            row: Row | BadLine
            try:
                row = tuple(next(rows))
            except StopIteration:
                return
            except csv.Error as error:
                row = BadLine(f"is no CSV: {str(error).partition(' - ')[0]}")
            yield BadLine(INVALID_ROW) if lines.is_beyond else row
            lines.start_row()


def _read_header(table: _Table, name: str) -> tuple[str, ...]:
    """What the columns are called."""
    row = next(table.iter_rows(), ())
    if isinstance(row, BadLine):
        raise BatchInputInvalid(
            f"the first row of {name}, with the columns' names, {row.message}", hint="Mend it."
        )
    if not row or not any(row):
        raise BatchInputInvalid(f"{name} is empty", hint="Its first row has to name the columns.")
    names = tuple(_decode_header(cell, name) for cell in row)
    duplicates = sorted({cell for cell in names if names.count(cell) > 1})
    if duplicates:
        raise BatchInputInvalid(
            f"{name} has several columns of the name {duplicates[0]!r}", hint="Rename all but one."
        )
    return names


def _decode_header(value: str, name: str) -> str:
    try:
        return decode_text(value.encode("latin-1"), "it").strip()
    except InvalidRequest as error:
        raise BatchInputInvalid(
            f"the first row of {name}: {error.message}", hint=error.hint
        ) from error


def _format_count(several: Sequence[str], what: str) -> str:
    return f"{len(several)} {what}{'' if len(several) == 1 else 's'}"


def _make_default_id(line: Line) -> str:
    return f"row-{line.number}"
