"""Incremental decoder for server-sent events (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["MAX_EVENT_BYTES", "Event", "EventDecoder", "is_end_mark"]

# Limit for one event. A chat completion chunk is below 1 kB; a tool call may be longer.
MAX_EVENT_BYTES = 4 * 2**20

CR, LF = b"\r\n"
_BOM = b"\xef\xbb\xbf"
_DATA_FIELDS = frozenset({b"data", b"error"})  # llama.cpp sends errors as `error:` lines
_MAX_END_MARK_BYTES = 64


def is_end_mark(data: bytes) -> bool:
    """Return whether event data is `[DONE]`, also with white space around it or in quotes."""
    return len(data) < _MAX_END_MARK_BYTES and data.strip(b' \t"').upper() == b"[DONE]"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream."""

    data: bytes
    name: bytes = b"message"


class EventDecoder:
    """Decodes blocks of bytes, split at any place, into events.

    An event that is unfinished when the stream ends is dropped, as the standard requires.
    """

    # The services send `data:` lines, comments as keep-alive (every 250 ms since SDK 2.1) and
    # rarely `event:`. `id:` and `retry:` are for browsers that reconnect, and are skipped.

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._after_cr = False
        self._is_first_line = True

    def feed(self, block: bytes) -> Iterable[Event]:
        """Return the events that this block completes. Consume them before the next call."""
        # Fast path: most blocks contain only complete events of one line each. Decoding them line
        # by line takes twice as long.
        if (
            self._rest
            or self._data
            or self._name
            or self._after_cr
            or len(block) > self._max_event_bytes
        ):
            return self._decode_lines(block)
        # `in` takes a number ten times as fast as bytes of length one.
        if CR in block or not (block.startswith(b"data: ") and block.endswith(b"\n\n")):
            return self._decode_lines(block)
        lines = block[6:-2].split(b"\n\ndata: ")
        if LF in b"".join(lines):  # faster than counting the line breaks
            return self._decode_lines(block)
        self._is_first_line = False
        return map(Event, lines)

    def _decode_lines(self, block: bytes) -> Iterator[Event]:
        # A generator, so that the events before an oversized one are delivered before the error.
        for line in self._split_lines(block):
            if (event := self._process_line(line)) is not None:
                yield event
        if len(self._rest) > self._max_event_bytes:
            raise self._make_size_error()

    def _split_lines(self, block: bytes) -> list[bytes]:
        # A CRLF may be split between two blocks. Its CR has already ended the line.
        if self._after_cr and block:
            block = block.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in block:
            self._after_cr = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in block:
            self._rest += block
            return []
        first, *others, rest = block.split(b"\n")
        lines = [bytes(self._rest) + first, *others]
        self._rest = bytearray(rest)
        if self._is_first_line:
            self._is_first_line = False
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _process_line(self, line: bytes) -> Event | None:
        if not line:
            data, name = self._data, self._name
            self._data, self._name, self._size = [], b"", 0
            return Event(b"\n".join(data), name or b"message") if data else None
        if len(line) > self._max_event_bytes:
            raise self._make_size_error()
        field, _, value = line.partition(b":")
        if field in _DATA_FIELDS:
            if field == b"error":
                self._name = field
            self._size += len(line) + 1
            if self._size > self._max_event_bytes:
                raise self._make_size_error()
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        elif line.startswith(b"{") and line.rstrip().endswith(b"}") and not self._data:
            # The standard ignores such a line. It is an error in JSON that a proxy inserted.
            return Event(line)
        return None

    def _make_size_error(self) -> ProtocolError:
        return ProtocolError(f"an event of the stream is larger than {self._max_event_bytes} bytes")
