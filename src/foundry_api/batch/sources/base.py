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
    Reading,
    line_pieces,
    reading_of,
    rest_of_line,
)
from foundry_api.batch.types import Line
from foundry_api.types.errors import BatchInputInvalid, FoundryError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.batch.sources.files import Origin
    from foundry_api.batch.types import BatchRequest, InputOptions

__all__ = ["MAX_CUSTOM_ID", "TOO_LONG", "LineSource", "Source", "checked_custom_id"]


FORMAT = 1
"""Raised whenever a line begins to mean another request."""

MEND = "Correct it in a file of its own: a file that has changed is another batch."
MAX_CUSTOM_ID = 512
MAX_TOLD = 500
"""Characters of a message: some of them repeat a value, which may be the whole line."""

_ORDERED = msgspec.json.Encoder(order="deterministic", enc_hook=str)


class Source(ABC):
    """An input of a batch. Its methods block.

    Args:
        origin: Where its bytes come from.
        options: What is made of them.
        kind: Which source it is, and what of the file decides what its lines mean.

    Attributes:
        name: What messages call it.
        rereadable: Whether its lines can be read more than once.
    """

    unit: ClassVar[str] = "line"
    """What its places are counted in."""

    def __init__(self, origin: Origin, options: InputOptions, kind: Any) -> None:
        self.name = origin.name
        self.rereadable = origin.rereadable
        self._origin = origin
        meaning = msgspec.structs.replace(options, path="", format="auto")
        self._meaning = _ORDERED.encode((FORMAT, kind, meaning))
        self._salt = hashlib.blake2b(self._meaning, digest_size=hashlib.blake2b.SALT_SIZE).digest()

    @property
    def size_bytes(self) -> int | None:
        """Size of the file as it lies there; None of a stream."""
        return self._origin.size_bytes

    def lines(self) -> Iterator[Line]:
        """The lines from the beginning, as they are read. Memory stays bounded.

        Raises:
            BatchInputInvalid: The file breaks off, or cannot be read.
        """
        with self.reading() as reading, reading.told():
            yield from self.lines_of(reading)

    def reading(self) -> Reading:
        """The file, opened to be read once from its beginning.

        Raises:
            BatchInputInvalid: It cannot be read.
        """
        return Reading(self._origin.open(), self.name)

    @abstractmethod
    def lines_of(self, reading: Reading) -> Iterator[Line]:
        """The lines of a file that was opened."""

    @final
    def request(self, line: Line) -> BatchRequest:
        """What a line asks.

        Raises:
            InvalidRequest: It cannot be asked; the message names the place, `.field` the member.
        """
        try:
            if isinstance(line.raw, BadLine):
                raise InvalidRequest(f"it {line.raw.message}")
            return self._request(line)
        except FoundryError as error:
            field = error.field if isinstance(error, InvalidRequest) else None
            told = f"{self.place(line)}: {error.message}"
            if len(told) > MAX_TOLD:
                told = f"{told[:MAX_TOLD]}…"
            hint = error.hint if error.hint != InvalidRequest.default_hint else MEND
            raise InvalidRequest(told, field=field, hint=hint) from error

    @abstractmethod
    def _request(self, line: Line) -> BatchRequest:
        """What a line asks. Its errors do not name the place."""

    @abstractmethod
    def custom_id(self, line: Line) -> str | None:
        """The name of a request, even of one that cannot be asked, if it has any."""

    def place(self, line: Line) -> str:
        """Where a line is, such as `prompts.jsonl line 17`."""
        return f"{self.name} {self.unit} {line.number}"

    def fingerprint(self) -> str:
        """Tells the whole input, and what is made of it, from any other: 32 hexadecimal digits.

        Raises:
            BatchInputInvalid: The file cannot be read, or is a stream.
        """
        if not self.rereadable:
            raise BatchInputInvalid(f"{self.name} can be read only once")
        digest = hashlib.blake2b(self._meaning, digest_size=16)
        with reading_of(self.name), self._origin.open() as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


def checked_custom_id(value: object) -> str:
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

    def lines_of(self, reading: Reading) -> Iterator[Line]:
        """The lines that are not blank.

        A resume reads all of them again, so nothing is done here that can wait.
        """
        index, salt, whole = 0, self._salt, int.from_bytes
        for number, piece in enumerate(line_pieces(reading.file), 1):
            raw: bytes | BadLine
            if len(piece) > MAX_LINE_BYTES:
                content, _ = rest_of_line(reading.file, piece)
                raw = BadLine(TOO_LONG)
            else:
                content = raw = piece.rstrip(b"\r\n")
                if not content or content.isspace():
                    continue
            digest = blake2b(content, digest_size=8, salt=salt).digest()
            yield Line(index, number, whole(digest, "little") >> 1, raw)
            index += 1
