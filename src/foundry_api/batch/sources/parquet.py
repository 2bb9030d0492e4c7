"""Parquet inputs: one prompt, or the values of a template, in each row."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from foundry_api.batch.sources.base import Source, validate_custom_id
from foundry_api.batch.sources.files import InputReader
from foundry_api.batch.sources.lines import decode_text
from foundry_api.batch.sources.prompts import PromptBuilder
from foundry_api.batch.types import Line
from foundry_api.types.errors import BatchInputInvalid, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from foundry_api.batch.sources.files import InputOrigin
    from foundry_api.batch.types import BatchRequest, InputOptions

__all__ = ["ParquetRows"]

ROWS_AT_ONCE = 1024
_ENCODER = msgspec.json.Encoder(enc_hook=str)


class ParquetRows(Source):
    """A Parquet input. `Line.raw` has the values of the used columns; no others are read."""

    unit: ClassVar[str] = "row"

    def __init__(self, origin: InputOrigin, options: InputOptions) -> None:
        if not origin.is_seekable:  # the schema is at the end of the file
            raise BatchInputInvalid(
                f"{origin.name} is Parquet, which cannot be read as a stream",
                hint="Write it to a file, and give that.",
            )
        with InputReader(origin.peek(), origin.name) as reader, reader.translate_errors():
            names = tuple(_open_parquet(reader, origin.name).schema_arrow.names)
        self._prompts = PromptBuilder(options, names, origin.name)
        self._columns = tuple(names[place] for place in self._prompts.places)
        self._width = len(names)
        super().__init__(origin, options, ("parquet", self._columns))

    def read_lines(self, reader: InputReader) -> Iterator[Line]:
        index, salt = 0, self._salt
        with _translate_arrow_errors(self.name):
            file = _open_parquet(reader, self.name)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(self._columns)):
                columns = [batch.column(name).to_pylist() for name in self._columns]
                for raw in zip(*columns, strict=True):
                    content = _ENCODER.encode(raw)
                    digest = blake2b(content, digest_size=8, salt=salt).digest()
                    yield Line(index, index + 1, int.from_bytes(digest, "little") >> 1, raw)
                    index += 1

    def get_custom_id(self, line: Line) -> str | None:
        name = self._prompts.id_column
        if name is None:
            return self._make_default_id(line)
        try:
            return validate_custom_id(_format_value(name, line.raw[self._columns.index(name)]))
        except InvalidRequest:
            return None

    def _parse_request(self, line: Line) -> BatchRequest:
        # The prompt builder counts places over all columns, though only some were read.
        values = [""] * self._width
        for place, name, value in zip(self._prompts.places, self._columns, line.raw, strict=True):
            values[place] = value if isinstance(value, str) else _format_value(name, value)
        return self._prompts.make_request(values, self._make_default_id(line))


def _format_value(name: str, value: Any) -> str:
    """Format null as an empty text, numbers and lists as JSON, times as Python does."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return decode_text(value, name)
    if isinstance(value, bool | int | float | list | dict):
        return _ENCODER.encode(cast("Any", value)).decode()
    return str(value)


def _open_parquet(reader: InputReader, name: str) -> Any:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BatchInputInvalid(
            f"{name} is Parquet, for which a package is missing",
            hint="pip install pyarrow",
        ) from error
    with _translate_arrow_errors(name):
        return parquet.ParquetFile(reader.file)


@contextmanager
def _translate_arrow_errors(name: str) -> Generator[None]:
    arrow: Any = importlib.import_module("pyarrow")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        # Arrow raises OSError for damaged data, but without a number; those of the disk have one.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BatchInputInvalid(
            f"{name} is damaged, or not Parquet: {str(error).rstrip('.')}",
            hint="Write the file again.",
        ) from error
