"""Mutated requests: those of the tables of hostile requests, changed at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.hostile import CHAT, HELLO, ROWS, post
from gateway.hostile_forms import FORM_ROWS

if TYPE_CHECKING:
    from random import Random

__all__ = ["cut", "mutate"]

LONGEST = 5000
MESSAGE = HELLO[:-1] + b',"max_tokens":9}'
# Requests that are served reach more of the gateway than those that are refused.
SERVED = (
    *(post(MESSAGE, target=target) for target in (CHAT, b"/v1/messages")),
    post(MESSAGE[:-1] + b',"stream":true}'),
    post(MESSAGE, b"Idempotency-Key: a"),
    post(b'{"model":"scripted","input":"say-hello"}', target=b"/v1/responses"),
    post(b'{"model":"embedder","input":["a","b"]}', target=b"/v1/embeddings"),
    post(b'{"model":"demo"}', target=b"/models/load"),
    *(
        b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target
        for target in (
            b"/v1/models",
            b"/v1/models/scripted",
            b"/v1/responses?limit=2&order=asc",
            b"/v1/files?purpose=batch",
            b"/v1/batches/batch_1",
            b"/api/models",
            b"/metrics",
            b"/openapi.json",
        )
    ),
)
SOURCES = (*(row.data for row in (*ROWS, *FORM_ROWS) if len(row.data) < LONGEST), *SERVED)
# What readers of HTTP, of JSON and of forms take for something else than text.
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"?", b"#", b"%00", b"%2f"),
    *(b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xe2\x80\xa8", b"\x1b[2J", b"..", b"/", b"//", b"%"),
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b"[" * 100, b'{"a":' * 100, b'"model":"demo",'),
    *(b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"-1", b"-0", b"1.5", b"9" * 30, b"null", b"true"),
    *(b"--x\r\n", b"--x--\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"ffffffff\r\n"),
    *(b"POST ", b"DELETE ", b"OPTIONS ", b"TRACE ", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0"),
)
HEADERS = (
    *(b"Content-Length: 0", b"Content-Length: 9", b"Content-Length: 4194305"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Trailer: Host"),
    *(b"Expect: 100-continue", b"Expect: \xff", b"Connection: close", b"Connection: upgrade"),
    *(b"Upgrade: h2c", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"Content-Encoding: br"),
    *(b"Host: evil.example", b"Origin: null", b"Cookie: \xff=\xff", b"Range: bytes=0-9"),
    *(b"Authorization: Bearer \xff", b"Authorization:", b"x-api-key: \xed\xa0\x80", b"api-key: a"),
    *(b"Content-Type: application/json", b"Content-Type: multipart/form-data; boundary=x"),
    *(
        b"Content-Type: application/json; charset=\xff",
        b"Content-Disposition: form-data; name=\xff",
    ),
    *(b"Idempotency-Key: \xff", b"Idempotency-Key: " + b"k" * 300, b"x-stainless-retry-count: x"),
    *(b"X-Request-Timeout: nan", b"X-Request-Timeout: 1e999", b"X-Request-Timeout: -1"),
    *(
        b"Prefer: wait=\xff",
        b"Prefer: wait=",
        b"x-stainless-read-timeout: inf",
        b"X: " + b"x" * 9000,
    ),
)


def mutate(randomness: Random) -> bytes:
    """Return a request that is changed in up to eight places."""
    data = bytearray(randomness.choice(SOURCES))
    for _ in range(randomness.randint(1, 8)):
        _CHANGES[randomness.randrange(len(_CHANGES))](randomness, data)
    return bytes(data)


def cut(randomness: Random, data: bytes) -> list[int]:
    """Return where the segments of a request end: mostly one, or up to four."""
    count = randomness.choice((0, 0, 0, 1, 2, 3))
    return sorted(randomness.randrange(len(data) + 1) for _ in range(count))


def _replace_bytes(randomness: Random, data: bytearray) -> None:
    position = randomness.randrange(len(data) + 1)
    data[position : position + randomness.randint(0, 3)] = randomness.randbytes(
        randomness.randint(0, 3)
    )


def _insert_token(randomness: Random, data: bytearray) -> None:
    position = randomness.randrange(len(data) + 1)
    data[position:position] = randomness.choice(TOKENS)


def _insert_header(randomness: Random, data: bytearray) -> None:
    head = data.find(b"\r\n") + 2
    data[head:head] = randomness.choice(HEADERS) + b"\r\n"


def _remove_line(randomness: Random, data: bytearray) -> None:
    start = data.find(b"\r\n", randomness.randrange(len(data) + 1)) + 2
    end = data.find(b"\r\n", start) + 2
    if end > start:
        del data[start:end]


def _repeat_slice(randomness: Random, data: bytearray) -> None:
    start = randomness.randrange(len(data) + 1)
    piece = data[start : start + randomness.randint(1, 60)]
    data[start:start] = piece * randomness.randint(1, 9)


def _splice(randomness: Random, data: bytearray) -> None:
    other = randomness.choice(SOURCES)
    del data[randomness.randrange(len(data) + 1) :]
    data += other[randomness.randrange(len(other)) :]


def _correct_length(randomness: Random, data: bytearray) -> None:
    """Give the length that the body has now, so that the body is read and not the length."""
    del randomness
    head, separator, body = bytes(data).partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    if separator and body:
        lines.append(b"Content-Length: %d" % len(body))
        data[:] = b"\r\n".join(lines) + separator + body


_CHANGES = (
    _replace_bytes,
    _replace_bytes,
    _insert_token,
    _insert_token,
    _insert_header,
    _remove_line,
    _repeat_slice,
    _splice,
    _correct_length,
    _correct_length,
)
