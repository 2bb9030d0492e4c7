"""Responses as bytes, valid and invalid, and what the client makes of each of them.

`test_wire.py` sends them at once, byte by byte and cut at random places, through both parsers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.types.errors import ProtocolError, StreamInterrupted

if TYPE_CHECKING:
    from foundry_api.types.errors import FoundryError


@dataclass(frozen=True)
class Case:
    """The bytes of a response, and its outcome.

    Attributes:
        data: What the service sends.
        outcome: The body, or the error that the reader gets.
        status: The status of the response.
        reused: Whether the next request is sent on the same connection.
        closes: Whether the service closes the connection after the bytes.
        method: The method of the request.
    """

    data: bytes
    outcome: bytes | type[FoundryError]
    status: int = 200
    reused: bool = True
    closes: bool = False
    method: str = "GET"


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"


def answer(data: bytes, body: bytes = b"", *, status: int = 200, method: str = "GET") -> Case:
    """Expect a response that leaves the connection usable."""
    return Case(data, body, status=status, method=method)


def last_answer(data: bytes, body: bytes = b"", *, status: int = 200, method: str = "GET") -> Case:
    """Expect a response after which the connection is closed."""
    return Case(data, body, status=status, reused=False, method=method)


def answer_until_close(data: bytes, body: bytes, *, status: int = 200) -> Case:
    """Expect a body that the end of the connection ends."""
    return Case(data, body, status=status, reused=False, closes=True)


def invalid(data: bytes) -> Case:
    return Case(data, ProtocolError, reused=False)


def cut_off(data: bytes) -> Case:
    return Case(data, StreamInterrupted, reused=False, closes=True)


def head(*fields: bytes, status: bytes = b"200 OK", version: bytes = b"1.1") -> bytes:
    return b"HTTP/%b %b\r\n%b\r\n" % (
        version,
        status,
        b"".join(field + b"\r\n" for field in fields),
    )


STATUS_LINES = {
    "no reason": answer(b"HTTP/1.1 200\r\n" + EMPTY),
    "an empty reason": answer(b"HTTP/1.1 200 \r\n" + EMPTY),
    "a reason of several words": answer(b"HTTP/1.1 200 All is well\r\n" + EMPTY),
    "a reason that is not ASCII": answer(b"HTTP/1.1 200 \xc3\x9c\r\n" + EMPTY),
    "empty lines before it": answer(b"\r\n\r\n" + OK + EMPTY),
    "a status of 999": answer(b"HTTP/1.1 999 Odd\r\n" + EMPTY, status=999),
    "a status of four digits": invalid(b"HTTP/1.1 2000 OK\r\n" + EMPTY),
    "a status of two digits": invalid(b"HTTP/1.1 20 OK\r\n" + EMPTY),
    "a status that is no number": invalid(b"HTTP/1.1 abc OK\r\n" + EMPTY),
    "two spaces before the status": invalid(b"HTTP/1.1  200 OK\r\n" + EMPTY),
    "a space at its start": invalid(b" HTTP/1.1 200 OK\r\n" + EMPTY),
    "small letters": invalid(b"http/1.1 200 OK\r\n" + EMPTY),
    "version 1.2": invalid(b"HTTP/1.2 200 OK\r\n" + EMPTY),
    "version 3": invalid(b"HTTP/3.0 200 OK\r\n" + EMPTY),
    "version 2": last_answer(b"HTTP/2.0 200 OK\r\n" + EMPTY),
    "no version": invalid(b"HTTP 200 OK\r\n" + EMPTY),
    "the preface of HTTP/2": invalid(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a request": invalid(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a TLS alert": invalid(b"\x15\x03\x01\x00\x02\x02\x46"),
    "JSON without a head": invalid(b'{"error": "no"}\n'),
    "one byte": invalid(b"x"),
}

FIELDS = {
    "line feeds without carriage returns": answer(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    "no space after the colon": answer(OK + b"Content-Length:2\r\n\r\nab", b"ab"),
    "spaces and tabs around the value": answer(OK + b"Content-Length: \t 2  \r\n\r\nab", b"ab"),
    "an empty value": answer(OK + b"X-Empty:\r\n" + EMPTY),
    "a value of spaces": answer(OK + b"X-Empty:    \r\n" + EMPTY),
    "a value that is not ASCII": answer(OK + b"X-Latin: \xe4\r\n" + EMPTY),
    "a tab in a value": answer(OK + b"X-Tab: a\tb\r\n" + EMPTY),
    "names in capitals": answer(OK + b"CONTENT-LENGTH: 2\r\n\r\nab", b"ab"),
    "repeated headers": answer(OK + b"X-A: 1\r\nX-A: 2\r\n" + EMPTY),
    "two types of the content": answer(OK + b"Content-Type: a/b\r\nContent-Type: a/b\r\n" + EMPTY),
    "512 headers": answer(OK + b"X-Many: 1\r\n" * 511 + EMPTY),
    "513 headers": invalid(OK + b"X-Many: 1\r\n" * 512 + EMPTY),
    "a header of 32 KB": answer(OK + b"X: " + b"a" * (2**15 - 1) + b"\r\n" + EMPTY),
    "a header above 32 KB": invalid(OK + b"X: " + b"a" * 2**15 + b"\r\n" + EMPTY),
    "a name above 32 KB": invalid(OK + b"X" * 2**15 + b": a\r\n" + EMPTY),
    "an endless value": invalid(OK + b"X-Endless: " + b"a" * 2**19),
    "an endless name": invalid(OK + b"a" * 2**19),
    "an endless reason": invalid(b"HTTP/1.1 200 " + b"a" * 2**19),
    "headers above 256 KB": invalid(OK + (b"X-Long: " + b"a" * 30_000 + b"\r\n") * 12),
    "a folded value": invalid(OK + b"X-Folded: a\r\n b\r\n" + EMPTY),
    "a space before the colon": invalid(OK + b"X-A : b\r\n" + EMPTY),
    "a space before the name": invalid(OK + b" X-A: b\r\n" + EMPTY),
    "a space in a name": invalid(OK + b"X A: b\r\n" + EMPTY),
    "no colon": invalid(OK + b"X-A\r\n" + EMPTY),
    "no name": invalid(OK + b": b\r\n" + EMPTY),
    "a name that is not ASCII": invalid(OK + b"\xc3\xa4: b\r\n" + EMPTY),
    "a control character in a value": invalid(OK + b"X-A: a\x01b\r\n" + EMPTY),
    "a DEL in a value": invalid(OK + b"X-A: a\x7fb\r\n" + EMPTY),
    "a NUL in a name": invalid(OK + b"X-\0A: b\r\n" + EMPTY),
    "a NUL in a value": invalid(OK + b"X-A: a\0b\r\n" + EMPTY),
    "a carriage return in a value": invalid(OK + b"X-A: a\rb\r\n" + EMPTY),
    "two carriage returns at the end": invalid(OK + b"X-A: a\r\r\n" + EMPTY),
}

LENGTHS = {
    "a body": answer(head(b"Content-Length: 5") + b"hello", b"hello"),
    "an empty body": answer(OK + EMPTY),
    "a tab after the length": answer(head(b"Content-Length: 2\t") + b"ab", b"ab"),
    "leading zeros": answer(head(b"Content-Length: 0002") + b"ab", b"ab"),
    "a body of 300 KB": answer(head(b"Content-Length: 300000") + b"a" * 300_000, b"a" * 300_000),
    "a body that looks like a response": answer(
        head(b"Content-Length: %d" % len(OK + EMPTY)) + OK + EMPTY, OK + EMPTY
    ),
    "a body with chunk sizes": answer(head(b"Content-Length: 5") + END, END),
    "two different lengths": invalid(head(b"Content-Length: 1", b"Content-Length: 2") + b"ab"),
    "the same length twice": invalid(head(b"Content-Length: 2", b"Content-Length: 2") + b"ab"),
    "a list of lengths": invalid(head(b"Content-Length: 2, 2") + b"ab"),
    "a sign": invalid(head(b"Content-Length: +2") + b"ab"),
    "a negative length": invalid(head(b"Content-Length: -2") + b"ab"),
    "a hexadecimal length": invalid(head(b"Content-Length: 0x2") + b"ab"),
    "a fraction": invalid(head(b"Content-Length: 2.0") + b"ab"),
    "a space within": invalid(head(b"Content-Length: 1 2") + b"ab"),
    "no number": invalid(head(b"Content-Length: two") + b"ab"),
    "an empty length": invalid(head(b"Content-Length:") + b"ab"),
    "a length above 64 bits": invalid(head(b"Content-Length: 99999999999999999999999") + b"ab"),
    "a length of 64 bits": cut_off(head(b"Content-Length: 18446744073709551615") + b"ab"),
    "digits of another script": invalid(head("Content-Length: ٢".encode()) + b"ab"),
}

CHUNKS = {
    "two chunks": answer(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n" + END, b"abcde"),
    "no chunk": answer(CHUNKED + END),
    "capitals in the size": answer(CHUNKED + b"A\r\n0123456789\r\n" + END, b"0123456789"),
    "leading zeros in the size": answer(CHUNKED + b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "CHUNKED in capitals": answer(head(b"Transfer-Encoding: CHUNKED") + b"1\r\na\r\n" + END, b"a"),
    "a coding with a space after it": answer(
        head(b"Transfer-Encoding: chunked ") + b"1\r\na\r\n" + END, b"a"
    ),
    "an extension": answer(CHUNKED + b"3;name=value\r\nabc\r\n" + END, b"abc"),
    "an extension in quotes": answer(CHUNKED + b'3;name="a b"\r\nabc\r\n' + END, b"abc"),
    "a space after the size": answer(CHUNKED + b"3 \r\nabc\r\n" + END, b"abc"),
    "a line break in a chunk": answer(CHUNKED + b"4\r\na\r\nb\r\n" + END, b"a\r\nb"),
    "a size of zero in a chunk": answer(CHUNKED + b"5\r\n0\r\n\r\n\r\n" + END, b"0\r\n\r\n"),
    "trailers": answer(CHUNKED + b"1\r\na\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", b"a"),
    "a chunk of 300 KB": answer(
        CHUNKED + b"493e0\r\n" + b"a" * 300_000 + b"\r\n" + END, b"a" * 300_000
    ),
    "both a length and chunks": invalid(
        head(b"Content-Length: 3", b"Transfer-Encoding: chunked") + END
    ),
    "both chunks and a length": invalid(
        head(b"Transfer-Encoding: chunked", b"Content-Length: 3") + END
    ),
    "a length and another coding": invalid(
        head(b"Content-Length: 3", b"Transfer-Encoding: identity") + b"abc"
    ),
    "gzip as the coding": invalid(head(b"Transfer-Encoding: gzip") + b"abc"),
    "gzip before chunked": invalid(head(b"Transfer-Encoding: gzip, chunked") + END),
    "gzip after chunked": invalid(head(b"Transfer-Encoding: chunked, gzip") + END),
    "identity as the coding": invalid(head(b"Transfer-Encoding: identity") + b"abc"),
    "a coding that ends like chunked": invalid(head(b"Transfer-Encoding: xchunked") + END),
    "an empty coding": invalid(head(b"Transfer-Encoding:") + b"abc"),
    "no size": invalid(CHUNKED + b"\r\nabc\r\n" + END),
    "a size with a prefix": invalid(CHUNKED + b"0x3\r\nabc\r\n" + END),
    "a size with a sign": invalid(CHUNKED + b"+3\r\nabc\r\n" + END),
    "a space before the size": invalid(CHUNKED + b" 3\r\nabc\r\n" + END),
    "a size above 64 bits": invalid(CHUNKED + b"fffffffffffffffff\r\nabc"),
    "a size that is not hexadecimal": invalid(CHUNKED + b"g\r\nabc\r\n" + END),
    "a line feed alone after the size": invalid(CHUNKED + b"3\nabc\n0\n\n"),
    "a control character in an extension": invalid(CHUNKED + b"3;a\x01\r\nabc\r\n" + END),
    "a chunk longer than its size": invalid(CHUNKED + b"3\r\nabcd\r\n" + END),
    "a chunk shorter than its size": invalid(CHUNKED + b"5\r\nabc\r\n" + END),
    "no line break after a chunk": invalid(CHUNKED + b"3\r\nabc3\r\nabc\r\n" + END),
    "an invalid trailer": invalid(CHUNKED + b"0\r\nX y\r\n\r\n"),
    "a length in the trailers": invalid(CHUNKED + b"0\r\nContent-Length: 4\r\n\r\n"),
    "an endless trailer": invalid(CHUNKED + b"0\r\nX-Endless: " + b"a" * 2**19),
    "endless trailers": invalid(CHUNKED + b"0\r\n" + b"X-More: 1\r\n" * 600),
}

ENDS = {
    "HTTP/1.0 until the connection closes": answer_until_close(
        head(version=b"1.0") + b"hello", b"hello"
    ),
    "HTTP/1.1 until the connection closes": answer_until_close(head() + b"hello", b"hello"),
    "an empty body until the connection closes": answer_until_close(head(), b""),
    "205 until the connection closes": answer_until_close(
        head(status=b"205 Reset") + b"a", b"a", status=205
    ),
    "HTTP/1.0 with a length": last_answer(head(b"Content-Length: 1", version=b"1.0") + b"a", b"a"),
    "HTTP/1.0 that stays open": answer(
        head(b"Connection: keep-alive", b"Content-Length: 1", version=b"1.0") + b"a", b"a"
    ),
    "HTTP/1.0 with chunks": last_answer(
        head(b"Transfer-Encoding: chunked", version=b"1.0") + b"1\r\na\r\n" + END, b"a"
    ),
    "`Connection: close`": last_answer(
        head(b"Connection: close", b"Content-Length: 1") + b"a", b"a"
    ),
    "`close` in a list, in capitals": last_answer(
        head(b"Connection: foo, Close", b"Content-Length: 1") + b"a", b"a"
    ),
    "`close` with chunks": last_answer(
        head(b"Connection: close", b"Transfer-Encoding: chunked") + b"1\r\na\r\n" + END, b"a"
    ),
    "another option of the connection": answer(head(b"Connection: foo", b"Content-Length: 0")),
    "the connection closes in the body": cut_off(head(b"Content-Length: 5") + b"abc"),
    "the connection closes before the body": cut_off(head(b"Content-Length: 5")),
    "the connection closes in a chunk": cut_off(CHUNKED + b"5\r\nabc"),
    "the connection closes in a chunk size": cut_off(CHUNKED + b"1\r\na\r\n1"),
    "the connection closes after a chunk": cut_off(CHUNKED + b"3\r\nabc\r\n"),
    "the connection closes in the trailers": cut_off(CHUNKED + b"1\r\na\r\n0\r\nX-Sum"),
    "the connection closes before the last line break": cut_off(CHUNKED + b"1\r\na\r\n0\r\n\r"),
}

BODYLESS = {
    "204": answer(head(status=b"204 No Content"), status=204),
    "304 with a length": answer(head(b"Content-Length: 5", status=b"304 Not Modified"), status=304),
    "304 with chunks": answer(
        head(b"Transfer-Encoding: chunked", status=b"304 Not Modified"), status=304
    ),
    "HEAD with a length": last_answer(head(b"Content-Length: 5"), method="HEAD"),
    "HEAD with chunks": last_answer(head(b"Transfer-Encoding: chunked"), method="HEAD"),
    "HEAD with a body all the same": last_answer(
        head(b"Content-Length: 5") + b"hello", method="HEAD"
    ),
    "100 before the response": answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + EMPTY),
    "three interim responses": answer(
        b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n"
        + OK
        + EMPTY
    ),
    "endless interim responses": invalid(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000),
    "101 is the last one": last_answer(
        head(b"Upgrade: other", b"Connection: upgrade", status=b"101 Switching") + b"\0\1\2",
        status=101,
    ),
    "an upgrade that was only offered": answer(
        head(b"Upgrade: other", b"Connection: upgrade", b"Content-Length: 1") + b"a", b"a"
    ),
}

AFTER_THE_END = {
    "a second response": last_answer(OK + EMPTY + OK + EMPTY),
    "a second response with a body": last_answer(
        head(b"Content-Length: 1") + b"a" + head(b"Content-Length: 1") + b"b", b"a"
    ),
    "the start of a second response": last_answer(OK + EMPTY + b"HTTP/1.1 200"),
    "one byte of a second response": last_answer(OK + EMPTY + b"H"),
}

GROUPS = {
    "status line": STATUS_LINES,
    "headers": FIELDS,
    "length": LENGTHS,
    "chunks": CHUNKS,
    "end": ENDS,
    "no body": BODYLESS,
    "after the end": AFTER_THE_END,
}
CASES = {
    f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()
}
