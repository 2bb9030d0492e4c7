"""A JSON array, given out element by element. Neither is ever held as a whole, nor parsed twice."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.sources.base import TOO_LONG
from foundry_api.batch.sources.files import BLOCK_BYTES, MAX_LINE_BYTES, BadLine
from foundry_api.types.errors import BatchInputInvalid

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

__all__ = ["begins_array", "iter_array_elements"]

_BEGINNING = re.compile(rb"\s*\[\s*(?:[\[{\"\]]|\Z)")
"""An array, though a line of plain text may begin with a bracket as well: `[1] What is …`."""

_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'[\\"]')
_OPENING, _CLOSING = b"[{", b"]}"


def begins_array(head: bytes) -> bool:
    """Whether a file is an array, and not lines of which the first one is."""
    if not _BEGINNING.match(head):
        return False
    first, _, others = head.lstrip().partition(b"\n")
    return not others.strip() or not _is_json(first)


def iter_array_elements(
    file: io.BufferedReader, name: str, salt: bytes
) -> Iterator[tuple[bytes | BadLine, int]]:
    """The elements of an array as they are written, and a digest of each: 63 bits.

    Args:
        file: What it is read from; its first byte but blanks is the bracket.
        name: What messages call it.
        salt: Makes the digests another input's.

    Raises:
        BatchInputInvalid: The array does not end, or something comes after it.
    """
    return _Elements(file, name, salt).iter_elements()


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


class _Elements:
    """Where the elements of an array begin and end."""

    def __init__(self, file: io.BufferedReader, name: str, salt: bytes) -> None:
        self._file = file
        self._name = name
        self._salt = salt
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self._start_element()

    def _start_element(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_blank = True
        self._digest = blake2b(digest_size=8, salt=self._salt)

    def iter_elements(self) -> Iterator[tuple[bytes | BadLine, int]]:
        """See `iter_array_elements`."""
        number = -1  # ahead of the bracket that opens the array
        while block := self._file.read1(BLOCK_BYTES):
            start = 0
            for place in self._find_cuts(block):
                self._add(block[start:place])
                start = place + 1
                is_empty = number == 0 and self._depth == 0 and self._is_blank
                if number >= 0 and not is_empty:
                    yield self._finish_element()
                self._start_element()
                number += 1
            if number >= 0 and self._depth == 0:
                self._check_no_more(block[start:])
                return
            self._add(block[start:])
        raise BatchInputInvalid(
            f"{self._name} is cut off: its array does not end", hint="Copy it once more, whole."
        )

    def _check_no_more(self, rest: bytes) -> None:
        while not rest.strip():
            rest = self._file.read1(BLOCK_BYTES)
            if not rest:
                return
        raise BatchInputInvalid(
            f"{self._name} goes on behind the end of its array",
            hint="Give one array of requests, or one request on each line.",
        )

    def _find_cuts(self, block: bytes) -> Iterator[int]:
        """The places of the array's own brackets, and of the commas between its elements."""
        position = 0
        while (mark_at := self._find_mark(block, position)) is not None:
            position = mark_at + 1
            mark = block[mark_at:position]
            if mark in _OPENING:
                self._depth += 1
                if self._depth == 1:
                    yield mark_at
            elif mark in _CLOSING:
                self._depth -= 1
                if self._depth == 0:
                    yield mark_at
                    return
            elif self._depth == 1:
                yield mark_at

    def _find_mark(self, block: bytes, position: int) -> int | None:
        """The place of the next mark outside of texts."""
        while True:
            if self._escaped:
                position += 1
                self._escaped = False
            if not self._in_text:
                match = _OUTSIDE.search(block, position)
                if match is None:
                    return None
                if match[0] != b'"':
                    return match.start()
                self._in_text = True
            else:
                match = _INSIDE.search(block, position)
                if match is None:
                    return None
                if match[0] == b'"':
                    self._in_text = False
                elif match.end() == len(block):
                    self._escaped = True
                    return None
                else:
                    position = match.end() + 1
                    continue
            position = match.end()

    def _add(self, piece: bytes) -> None:
        if self._is_blank:
            piece = piece.lstrip()
            self._is_blank = not piece
        self._size += len(piece)
        if self._size <= MAX_LINE_BYTES:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
        self._digest.update(piece)

    def _finish_element(self) -> tuple[bytes | BadLine, int]:
        digest = int.from_bytes(self._digest.digest(), "little") >> 1
        if self._size > MAX_LINE_BYTES:
            return BadLine(TOO_LONG), digest
        return b"".join(self._pieces).rstrip(), digest
