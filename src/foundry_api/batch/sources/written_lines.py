"""Inputs of lines: one request on each that is not blank."""

from __future__ import annotations

from abc import ABC
from hashlib import blake2b
from typing import TYPE_CHECKING

from foundry_api.batch.lines import Line
from foundry_api.batch.sources.base import Source
from foundry_api.batch.sources.reading import MAX_LINE_BYTES, BadLine, line_pieces, rest_of_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.batch.sources.reading import Reading

__all__ = ["TOO_LONG", "LineSource"]

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
