"""Parsers for HTTP/1 responses: `httptools`, and one in Python for platforms without a build of it.

`ResponseParser` has the interface of `httptools.HttpResponseParser` and decides as it does:
`tests/faults/test_wire.py` runs both on the same bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "PARSER_ERRORS",
    "HttpParserError",
    "Parser",
    "ParserEvents",
    "ResponseParser",
    "make_parser",
]

_STATUS_LINE = re.compile(rb"HTTP/(0\.9|1\.0|1\.1|2\.0) (\d{3})(?: [^\r]*)?")
_LINE_ENDS = re.compile(rb"[\r\n]+")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+) *(?:;[\t\x20-\x7e\x80-\xff]+)?\r")

_PROTOCOL = b"HTTP/"
_MAX_SIZE = 2**64 - 1
_NO_LIMIT = -1


class HttpParserError(Exception):
    """The bytes are not a valid HTTP response."""


class ParserEvents(Protocol):
    """What a parser calls, in this order for each response. Trailers are headers after the body."""

    on_body: Callable[[bytes], None]

    def on_message_begin(self) -> None: ...

    def on_header(self, name: bytes, value: bytes, /) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_message_complete(self) -> None: ...


class Parser(Protocol):
    """Parses the responses on one connection."""

    def feed_data(self, data: bytes, /) -> None:
        """Parse bytes, split at any place; raise one of PARSER_ERRORS if they are invalid."""
        ...

    def get_status_code(self) -> int: ...

    def should_keep_alive(self) -> bool:
        """Return whether the connection can be used again. Valid from the end of the head on."""
        ...


class ResponseParser:
    """The parser in Python."""

    # Each `_parse_` method parses one element, such as a line, if all of it has arrived. Then it
    # returns True, and `_parse` is the method for the next element.

    def __init__(self, events: ParserEvents) -> None:
        self._events = events
        self._rest = bytearray()  # received and not parsed yet
        self._searched = 0  # bytes of it without a line feed
        self._parse = self._parse_status_line
        self._end_fields = self._end_head  # what the empty line after the fields ends
        self._has_begun = False
        self._status = 0
        self._keep_alive = True
        self._is_chunked = False
        self._length: int | None = None
        self._left = 0  # bytes until the end of the body or of the chunk

    def get_status_code(self) -> int:
        return self._status

    def should_keep_alive(self) -> bool:
        return self._keep_alive

    def feed_data(self, data: bytes) -> None:
        self._rest += data
        while self._rest and self._parse():
            pass

    def _parse_status_line(self) -> bool:
        if not self._has_begun:
            if line_ends := _LINE_ENDS.match(self._rest):  # strip() would copy all that follows
                end = line_ends.end()
                del line_ends  # it locks the buffer
                del self._rest[:end]
            if not self._rest:
                return False
            self._has_begun = True
            self._events.on_message_begin()
        # Something other than HTTP may never send a line feed.
        if not self._rest.startswith(_PROTOCOL[: len(self._rest)]):
            raise HttpParserError("the response does not begin with HTTP/")
        line = self._take_line()
        if line is None:
            return False
        match = _STATUS_LINE.fullmatch(line.removesuffix(b"\r"))
        if match is None:
            raise HttpParserError("invalid status line")
        self._status = int(match[2])
        self._keep_alive = match[1] == b"1.1"
        self._is_chunked, self._length = False, None
        self._parse, self._end_fields = self._parse_field, self._end_head
        return True

    def _parse_field(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        if field := line.removesuffix(b"\r"):
            self._add_field(field)
        else:
            self._end_fields()
        return True

    def _add_field(self, field: bytes) -> None:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise HttpParserError("invalid header")
        name, value = match.groups()
        lowered = name.lower()
        if lowered == b"content-length":
            self._set_length(value.rstrip(b" \t"))
        elif lowered == b"transfer-encoding":
            if self._length is not None:
                raise HttpParserError("more than one length of the body")
            self._is_chunked = value.lower().split(b",")[-1].strip() == b"chunked"
        elif lowered == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            if b"close" in options:
                self._keep_alive = False
            elif b"keep-alive" in options:
                self._keep_alive = True
        self._events.on_header(name, value)

    def _set_length(self, digits: bytes) -> None:
        if self._length is not None or self._is_chunked:
            raise HttpParserError("more than one length of the body")
        if not digits.isdigit() or int(digits) > _MAX_SIZE:
            raise HttpParserError("invalid Content-Length")
        self._length = int(digits)

    def _end_head(self) -> None:
        status = self._status
        has_body = not (100 <= status < 200 or status in {204, 304})  # noqa: PLR2004
        is_endless = has_body and not self._is_chunked and self._length is None
        if is_endless:
            self._keep_alive = False
        self._events.on_headers_complete()
        if not has_body or self._length == 0:
            self._end_message()
        elif self._is_chunked:
            self._parse = self._parse_chunk_size
        else:
            self._left = _NO_LIMIT if self._length is None else self._length
            self._parse = self._parse_body

    def _parse_body(self) -> bool:
        self._take_body()
        if not self._left:
            self._end_message()
        return True

    def _parse_chunk_size(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        match = _CHUNK_SIZE.fullmatch(line)
        size = int(match[1], 16) if match else _MAX_SIZE + 1
        if size > _MAX_SIZE:
            raise HttpParserError("invalid chunk size")
        self._left = size
        if size:
            self._parse = self._parse_chunk_data
        else:  # trailers
            self._parse, self._end_fields = self._parse_field, self._end_message
        return True

    def _parse_chunk_data(self) -> bool:
        self._take_body()
        if not self._left:
            self._parse = self._parse_chunk_end
        return True

    def _parse_chunk_end(self) -> bool:
        end = bytes(self._rest[:2])
        if not b"\r\n".startswith(end):
            raise HttpParserError("a chunk is longer than its size")
        if end != b"\r\n":
            return False
        del self._rest[:2]
        self._parse = self._parse_chunk_size
        return True

    def _parse_nothing(self) -> bool:
        raise HttpParserError("data after the last response of the connection")

    def _end_message(self) -> None:
        self._has_begun = False
        self._parse = self._parse_status_line if self._keep_alive else self._parse_nothing
        self._events.on_message_complete()

    def _take_line(self) -> bytes | None:
        """Return the next line without its line feed, if it is complete."""
        end = self._rest.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._rest)
            return None
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        self._searched = 0
        return line

    def _take_body(self) -> None:
        """Pass on the next bytes of the body or of the chunk."""
        size = len(self._rest) if self._left == _NO_LIMIT else min(self._left, len(self._rest))
        self._events.on_body(bytes(self._rest[:size]))
        del self._rest[:size]
        if self._left != _NO_LIMIT:
            self._left -= size


def _choose_parser() -> tuple[Callable[[ParserEvents], Parser], tuple[type[Exception], ...]]:
    """Return what makes a parser, and the errors of such a parser and of its events."""
    try:
        import httptools  # noqa: PLC0415 - it may be missing
    except ImportError:
        return ResponseParser, (HttpParserError,)

    def make_httptools_parser(events: ParserEvents) -> Parser:
        parser = httptools.HttpResponseParser(events)
        # RFC 9112 allows both, in sections 2.2 and 7.1.1.
        parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        return parser

    errors = (HttpParserError, httptools.HttpParserError, httptools.HttpParserUpgrade)
    return make_httptools_parser, errors


make_parser, PARSER_ERRORS = _choose_parser()
