"""An input: its lines as they are read, and the requests that they are."""

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


MEANING_VERSION = 1
"""Raised whenever a line begins to mean another request."""

FIX_HINT = "Correct it in a file of its own: a file that has changed is another batch."
MAX_CUSTOM_ID = 512
MAX_MESSAGE_CHARS = 500
"""Characters of a message: some of them repeat a value, which may be the whole line."""

_ORDERED_ENCODER = msgspec.json.Encoder(order="deterministic", enc_hook=str)


class Source(ABC):
    """An input of a batch. Its methods block.

    Args:
        origin: Where its bytes come from.
        options: What is made of them.
        kind: Which source it is, and what of the file decides what its lines mean.

    Attributes:
        name: What messages call it.
        is_seekable: Whether its lines can be read more than once.
    """

    unit: ClassVar[str] = "line"
    """What its places are counted in."""

    def __init__(self, origin: InputOrigin, options: InputOptions, kind: Any) -> None:
        self.name = origin.name
        self.is_seekable = origin.is_seekable
        self._origin = origin
        meaning = msgspec.structs.replace(options, path="", format="auto")
        self._meaning = _ORDERED_ENCODER.encode((MEANING_VERSION, kind, meaning))
        self._salt = hashlib.blake2b(self._meaning, digest_size=hashlib.blake2b.SALT_SIZE).digest()

    @property
    def size_bytes(self) -> int | None:
        """Size of the file as it lies there; None of a stream."""
        return self._origin.size_bytes

    def iter_lines(self) -> Iterator[Line]:
        """The lines from the beginning, as they are read. Memory stays bounded.

        Raises:
            BatchInputInvalid: The file breaks off, or cannot be read.
        """
        with self.open_reader() as reader, reader.translate_errors():
            yield from self.read_lines(reader)

    def open_reader(self) -> InputReader:
        """The file, opened to be read once from its beginning.

        Raises:
            BatchInputInvalid: It cannot be read.
        """
        return InputReader(self._origin.open(), self.name)

    @abstractmethod
    def read_lines(self, reader: InputReader) -> Iterator[Line]:
        """The lines of a file that was opened."""

    @final
    def parse_request(self, line: Line) -> BatchRequest:
        """What a line asks.

        Raises:
            InvalidRequest: It cannot be asked; the message names the place, `.field` the member.
        """
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
        """What a line asks. Its errors do not name the place."""

    @abstractmethod
    def get_custom_id(self, line: Line) -> str | None:
        """The name of a request, even of one that cannot be asked, if it has any."""

    def format_place(self, line: Line) -> str:
        """Where a line is, such as `prompts.jsonl line 17`."""
        return f"{self.name} {self.unit} {line.number}"

    def compute_fingerprint(self) -> str:
        """Tells the whole input, and what is made of it, from any other: 32 hexadecimal digits.

        Raises:
            BatchInputInvalid: The file cannot be read, or is a stream.
        """
        if not self.is_seekable:
            raise BatchInputInvalid(f"{self.name} can be read only once")
        digest = hashlib.blake2b(self._meaning, digest_size=16)
        with translate_read_errors(self.name), self._origin.open() as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


def validate_custom_id(value: object) -> str:
    """The name of a request.

    Raises:
        InvalidRequest: It is none.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"custom_id is {value!r}, not a text", field="custom_id")
    if not value:
        raise InvalidRequest("custom_id is empty", field="custom_id")
    if len(value) > MAX_CUSTOM_ID:
        raise InvalidRequest(
            f"custom_id has {len(value)} characters, but may have {MAX_CUSTOM_ID}",
            field="custom_id",
        )
    return value


TOO_LONG = f"is longer than {MAX_LINE_BYTES // 2**20} MiB"


class LineSource(Source, ABC):
    """An input with a request on each line. `Line.raw` is the line, without its end."""

    def read_lines(self, reader: InputReader) -> Iterator[Line]:
        """The lines that are not blank.

        A resume reads all of them again, so nothing is done here that can wait.
        """
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
            yield Line(index, number, to_int(digest, "little") >> 1, raw)
            index += 1
