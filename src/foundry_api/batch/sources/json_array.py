"""Split a JSON array into its elements, without parsing it and in bounded memory."""

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

__all__ = ["JsonMarks", "begins_array", "iter_array_elements"]

# A line of plain text may begin with a bracket, too: `[1] What is …`.
_BEGINNING = re.compile(rb"\s*\[\s*(?:[\[{\"\]]|\Z)")
_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'[\\"]')
_OPENING, _CLOSING = b"[{", b"]}"


def begins_array(head: bytes) -> bool:
    """Whether a file is one array, rather than lines of which the first is an array."""
    if not _BEGINNING.match(head):
        return False
    first, _, others = head.lstrip().partition(b"\n")
    if not others.strip():
        return True
    try:
        msgspec.json.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return False


def iter_array_elements(
    file: io.BufferedReader, name: str, salt: bytes
) -> Iterator[tuple[bytes | BadLine, int]]:
    """Yield the elements of an array as they are written, each with a digest of 63 bits."""
    return _Elements(file, name, salt).iter_elements()


class JsonMarks:
    """Finds the marks that structure a JSON text, in blocks that follow each other."""

    def __init__(self) -> None:
        self._in_string = False
        self._escaped = False

    def find(self, block: bytes, position: int) -> int | None:
        """Return the place of the next bracket, brace or comma outside of strings."""
        while True:
            if self._escaped:
                position += 1
                self._escaped = False
            if not self._in_string:
                match = _OUTSIDE.search(block, position)
                if match is None:
                    return None
                if match[0] != b'"':
                    return match.start()
                self._in_string = True
            else:
                match = _INSIDE.search(block, position)
                if match is None:
                    return None
                if match[0] == b'"':
                    self._in_string = False
                elif match.end() == len(block):
                    # The escaped character is the first of the next block.
                    self._escaped = True
                    return None
                else:
                    position = match.end() + 1
                    continue
            position = match.end()


class _Elements:
    """Scans an array block by block for the ends of its elements."""

    def __init__(self, file: io.BufferedReader, name: str, salt: bytes) -> None:
        self._file = file
        self._name = name
        self._salt = salt
        self._depth = 0
        self._marks = JsonMarks()
        self._start_element()

    def _start_element(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_blank = True
        self._digest = blake2b(digest_size=8, salt=self._salt)

    def iter_elements(self) -> Iterator[tuple[bytes | BadLine, int]]:
        number = -1  # before the bracket that opens the array
        while block := self._file.read1(BLOCK_BYTES):
            start = 0
            for place in self._find_cuts(block):
                self._add(block[start:place])
                start = place + 1
                # In `[]` the closing bracket ends no element.
                is_empty = number == 0 and self._depth == 0 and self._is_blank
                if number >= 0 and not is_empty:
                    digest = int.from_bytes(self._digest.digest(), "little") >> 1
                    if self._size > MAX_LINE_BYTES:
                        yield BadLine(TOO_LONG), digest
                    else:
                        yield b"".join(self._pieces).rstrip(), digest
                self._start_element()
                number += 1
            if number >= 0 and self._depth == 0:
                self._check_end(block[start:])
                return
            self._add(block[start:])
        raise BatchInputInvalid(
            f"{self._name} is cut off: its array does not end", hint="Copy the whole file again."
        )

    def _check_end(self, rest: bytes) -> None:
        while not rest.strip():
            rest = self._file.read1(BLOCK_BYTES)
            if not rest:
                return
        raise BatchInputInvalid(
            f"{self._name} continues after the end of its array",
            hint="Give one array of requests, or one request on each line.",
        )

    def _find_cuts(self, block: bytes) -> Iterator[int]:
        """Yield the positions of the outer brackets, and of the commas between elements."""
        position = 0
        while (mark_at := self._marks.find(block, position)) is not None:
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

    def _add(self, piece: bytes) -> None:
        if self._is_blank:
            piece = piece.lstrip()
            self._is_blank = not piece
        self._size += len(piece)
        if self._size <= MAX_LINE_BYTES:
            self._pieces.append(piece)
        else:  # the digest still covers all of it
            self._pieces.clear()
        self._digest.update(piece)
