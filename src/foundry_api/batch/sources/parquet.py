"""Parquet: a row of values for each prompt."""

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
    """An input with a prompt, or the values of one, in each row.

    `Line.raw` has the values of the columns that are used, and no others are read.

    Args:
        origin: Where its bytes come from.
        options: What is made of a row.

    Raises:
        BatchInputInvalid: It is no Parquet, has no such column, the options do not fit, or pyarrow
            is missing.
    """

    unit: ClassVar[str] = "row"

    def __init__(self, origin: InputOrigin, options: InputOptions) -> None:
        if not origin.is_seekable:
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
        """The rows, of which a few are held at once."""
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
        """What the row says, or `row-N` where there is no column for that."""
        name = self._prompts.id_column
        if name is None:
            return _make_default_id(line)
        try:
            return validate_custom_id(_format_value(name, line.raw[self._columns.index(name)]))
        except InvalidRequest:
            return None

    def _parse_request(self, line: Line) -> BatchRequest:
        return self._prompts.make_request(self._format_values(line.raw), _make_default_id(line))

    def _format_values(self, raw: tuple[Any, ...]) -> list[str]:
        """The values as texts, at the places of their columns."""
        values = [""] * self._width
        for place, name, value in zip(self._prompts.places, self._columns, raw, strict=True):
            values[place] = value if isinstance(value, str) else _format_value(name, value)
        return values


def _format_value(name: str, value: Any) -> str:
    """Null as nothing, numbers and lists as JSON writes them, times as Python does."""
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
            hint="pip install 'foundry-api[batch]'",
        ) from error
    with _translate_arrow_errors(name):
        return parquet.ParquetFile(reader.file)


@contextmanager
def _translate_arrow_errors(name: str) -> Generator[None]:
    """What Arrow raises of a file becomes an error of ours."""
    arrow: Any = importlib.import_module("pyarrow")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's; Arrow's own have no number
        raise BatchInputInvalid(
            f"{name} is damaged, or no Parquet: {str(error).rstrip('.')}",
            hint="Write it once more.",
        ) from error


def _make_default_id(line: Line) -> str:
    return f"row-{line.number}"
