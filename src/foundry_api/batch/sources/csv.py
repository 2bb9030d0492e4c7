"""CSV inputs: one prompt, or the values of a template, in each row."""

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
from foundry_api.observe.format import format_count
from foundry_api.types.errors import BatchInputInvalid, InvalidRequest

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from foundry_api.batch.sources.files import InputOrigin
    from foundry_api.batch.types import BatchRequest, InputOptions

    Row = tuple[str, ...]

__all__ = ["INVALID_ROW", "CsvLineReader", "CsvRows"]

INVALID_ROW = f"{TOO_LONG}, or a quote in it is never closed"

_SEPARATORS = ",;\t"
# Excel may write a row `sep=;`, which names the separator, before the header.
_EXCEL = re.compile(r'"?sep=([^"\w\s]|\t)"?[,;\t]*', re.IGNORECASE)


class CsvRows(Source):
    """A CSV input. `Line.raw` is the row.

    The separator is the comma, semicolon or tab that the header contains most, or the one that a
    row `sep=;` above it names.
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
        """Read the rows that are not blank."""
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
        name, row = self._prompts.id_column, line.raw
        if name is None:
            return self._make_default_id(line)
        if isinstance(row, BadLine) or len(cast("Row", row)) != len(self._header):
            return None
        try:
            value = row[self._header.index(name)].encode("latin-1")
            return validate_custom_id(decode_text(value, name))
        except InvalidRequest:
            return None

    def _parse_request(self, line: Line) -> BatchRequest:
        values, header = list(line.raw), self._header
        if len(values) != len(header):
            values_count = format_count(len(values), "value")
            raise InvalidRequest(
                f"it has {values_count} for {format_count(len(header), 'column')}",
                hint="Quote a value that contains the separator, and write any quote in it twice.",
            )
        # Only the values that the prompt uses are decoded: the others may be in any encoding.
        for place in self._prompts.places:
            if not values[place].isascii():
                values[place] = decode_text(values[place].encode("latin-1"), header[place])
        return self._prompts.make_request(values, self._make_default_id(line))


def _read_header(table: _Table, name: str) -> tuple[str, ...]:
    row = next(table.iter_rows(), ())
    if isinstance(row, BadLine):
        raise BatchInputInvalid(
            f"the first row of {name}, with the column names, {row.message}", hint="Correct it."
        )
    if not row or not any(row):
        raise BatchInputInvalid(f"{name} is empty", hint="Its first row must name the columns.")
    try:
        names = tuple(decode_text(cell.encode("latin-1"), "it").strip() for cell in row)
    except InvalidRequest as error:
        raise BatchInputInvalid(
            f"the first row of {name}: {error.message}", hint=error.hint
        ) from error
    duplicates = sorted({cell for cell in names if names.count(cell) > 1})
    if duplicates:
        raise BatchInputInvalid(
            f"{name} has several columns named {duplicates[0]!r}", hint="Rename all but one."
        )
    return names


class _Table:
    """Splits a file into rows.

    The rows are split as Latin-1, which decodes any bytes and keeps the ASCII syntax of CSV. Values
    are decoded as UTF-8 when they are used.
    """

    def __init__(self, reader: InputReader) -> None:
        # The standard library limits a value to 128 KiB. The limit is global to the process.
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
        """Yield the rows from the header on; a blank line is an empty row."""
        lines = self.lines
        rows = csv.reader(chain([self._first], lines), delimiter=self.separator, strict=True)
        while True:
            row: Row | BadLine
            try:
                row = tuple(next(rows))
            except StopIteration:
                return
            except csv.Error as error:
                row = BadLine(f"is not CSV: {str(error).partition(' - ')[0]}")
            yield BadLine(INVALID_ROW) if lines.is_too_long else row
            lines.start_row()


class CsvLineReader:
    """Gives lines to the CSV parser, and collects the bytes of the current row.

    Once a row is too long its content is dropped. Only a quote is passed on where a line changes
    whether one is open, so that the parser still finds the end of the row.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._pieces: list[bytes] = []
        self._size = 0
        self.is_too_long = False

    def start_row(self) -> None:
        self._pieces.clear()
        self._size = 0
        self.is_too_long = False

    @property
    def content(self) -> bytes:
        """The bytes of the row without its line ending, or a digest of a row that is too long."""
        return b"".join(self._pieces).rstrip(b"\r\n")

    def __iter__(self) -> Iterator[str]:
        for piece in iter_line_pieces(self._file):
            self._size += len(piece)
            if self._size > MAX_LINE_BYTES:
                self.is_too_long = True
                digest, quotes = skip_rest_of_line(self._file, piece)
                self._pieces.append(digest)
                self._pieces = [blake2b(b"".join(self._pieces), digest_size=16).digest()]
                yield '"' if quotes % 2 else ""
            else:
                self._pieces.append(piece)
                yield piece.decode("latin-1")
