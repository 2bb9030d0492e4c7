"""The base classes of inputs: they read lines and parse them into requests."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, final

import msgspec

from foundry_api.batch.sources.files import (
    BLOCK_BYTES,
    MAX_LINE_BYTES,
    BadLine,
    InputReader,
    iter_line_pieces,
    skip_rest_of_line,
    translate_read_errors,
)
from foundry_api.batch.types import Line
from foundry_api.types.errors import BatchInputInvalid, FoundryError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.batch.sources.files import InputOrigin
    from foundry_api.batch.types import BatchRequest, InputOptions

__all__ = ["MAX_CUSTOM_ID", "TOO_LONG", "LineSource", "Source", "validate_custom_id"]

# Increase it when the same line starts to mean another request: digests then change, and a batch
# that an older version started is not continued with different requests.
MEANING_VERSION = 1

MAX_CUSTOM_ID = 512
# Some messages repeat a value, which may be the whole line.
MAX_MESSAGE_CHARS = 500
FIX_HINT = "Correct it in a new file: a file that has changed is another batch."
TOO_LONG = f"is longer than {MAX_LINE_BYTES // 2**20} MiB"

_ORDERED_ENCODER = msgspec.json.Encoder(order="deterministic", enc_hook=str)


class Source(ABC):
    """An input of a batch. Its methods block.

    `kind` is the type of source, with what the file itself says about the meaning of its lines,
    such as a CSV header. It is part of every digest.
    """

    unit: ClassVar[str] = "line"
    """The word for one line in messages."""

    def __init__(self, origin: InputOrigin, options: InputOptions, kind: Any) -> None:
        self.name = origin.name
        self.is_seekable = origin.is_seekable
        self._origin = origin
        # The same file elsewhere, or with its format given, is the same input.
        meaning = msgspec.structs.replace(options, path="", format="auto")
        self._meaning = _ORDERED_ENCODER.encode((MEANING_VERSION, kind, meaning))
        self._salt = hashlib.blake2b(self._meaning, digest_size=hashlib.blake2b.SALT_SIZE).digest()

    @property
    def size_bytes(self) -> int | None:
        """The size of the file, compressed if it is; None for a stream."""
        return self._origin.size_bytes

    def iter_lines(self) -> Iterator[Line]:
        """Read the lines from the start, in bounded memory."""
        with self.open_reader() as reader, reader.translate_errors():
            yield from self.read_lines(reader)

    def open_reader(self) -> InputReader:
        return InputReader(self._origin.open(), self.name)

    @abstractmethod
    def read_lines(self, reader: InputReader) -> Iterator[Line]:
        """Read the lines from an open reader."""

    @final
    def parse_request(self, line: Line) -> BatchRequest:
        """Parse a line, or raise `InvalidRequest` with the place and the invalid field."""
        try:
            if isinstance(line.raw, BadLine):
                raise InvalidRequest(f"it {line.raw.message}")
            return self._parse_request(line)
        except FoundryError as error:
            field = error.field if isinstance(error, InvalidRequest) else None
            message = f"{self.format_place(line)}: {error.message}"
            if len(message) > MAX_MESSAGE_CHARS:
                message = f"{message[:MAX_MESSAGE_CHARS]}…"
            hint = error.hint if error.hint != InvalidRequest.default_hint else FIX_HINT
            raise InvalidRequest(message, field=field, hint=hint) from error

    @abstractmethod
    def _parse_request(self, line: Line) -> BatchRequest:
        """Parse a line. Error messages do not contain the place."""

    @abstractmethod
    def get_custom_id(self, line: Line) -> str | None:
        """Return the custom_id of a line, even of an invalid one, if it has any."""

    def format_place(self, line: Line) -> str:
        """Format the place of a line, such as `prompts.jsonl line 17`."""
        return f"{self.name} {self.unit} {line.number}"

    def _make_default_id(self, line: Line) -> str:
        return f"{self.unit}-{line.number}"

    def compute_fingerprint(self) -> str:
        """Hash the content of the file and the options that give it meaning."""
        if not self.is_seekable:
            raise BatchInputInvalid(f"{self.name} can be read only once")
        digest = hashlib.blake2b(self._meaning, digest_size=16)
        with translate_read_errors(self.name), self._origin.open() as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


class LineSource(Source, ABC):
    """An input with one request per line. `Line.raw` is the line without its line ending."""

    def read_lines(self, reader: InputReader) -> Iterator[Line]:
        """Read the lines that are not blank."""
        # A resumed batch reads every line again, so parsing waits until a line is really needed.
        index, salt, to_int = 0, self._salt, int.from_bytes
        for number, piece in enumerate(iter_line_pieces(reader.file), 1):
            raw: bytes | BadLine
            if len(piece) > MAX_LINE_BYTES:
                content, _ = skip_rest_of_line(reader.file, piece)
                raw = BadLine(TOO_LONG)
            else:
                content = raw = piece.rstrip(b"\r\n")
                if not content or content.isspace():
                    continue
            digest = blake2b(content, digest_size=8, salt=salt).digest()
            # 63 bits fit into SQLite's signed integers.
            yield Line(index, number, to_int(digest, "little") >> 1, raw)
            index += 1


def validate_custom_id(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"custom_id is {value!r}, not a string", field="custom_id")
    if not value:
        raise InvalidRequest("custom_id is empty", field="custom_id")
    if len(value) > MAX_CUSTOM_ID:
        raise InvalidRequest(
            f"custom_id has {len(value)} characters, but may have {MAX_CUSTOM_ID}",
            field="custom_id",
        )
    return value
