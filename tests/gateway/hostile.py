"""Hostile requests: the bytes, the expected statuses, and whether the connection ends.

`hostile_forms.py` has those with forms.

HOST is the address of the gateway; a row without a Host of its own has it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHAT", "HELLO", "HOST", "OPEN", "ROWS", "Row", "post"]

HOST = b"127.0.0.1"
CHAT = b"/v1/chat/completions"
HELLO = b'{"model":"scripted","messages":[{"role":"user","content":"say-hello"}]}'


class Row(NamedTuple):
    """One hostile request.

    Attributes:
        name: What it tries.
        data: The bytes to send.
        statuses: Statuses of the responses, in order; empty if none may arrive.
        closed: Whether the gateway ends the connection by itself, soon; if not, the next request
            on it is served. None if it may be either.
    """

    name: str
    data: bytes
    statuses: tuple[int, ...]
    closed: bool | None = True


def _get(target: bytes = b"/healthz", *headers: bytes, host: bytes | None = HOST) -> bytes:
    lines = [b"GET %b HTTP/1.1" % target, *([] if host is None else [b"Host: " + host]), *headers]
    return b"\r\n".join([*lines, b"", b""])


def post(
    body: bytes = HELLO, *headers: bytes, length: bytes | None = None, target: bytes = CHAT
) -> bytes:
    """Return a POST; its content type is JSON, unless it is among the headers."""
    names = [header.partition(b":")[0].lower() for header in headers]
    lines = [b"POST %b HTTP/1.1" % target, b"Host: " + HOST, *headers]
    if b"content-type" not in names:
        lines.append(b"Content-Type: application/json")
    if b"transfer-encoding" not in names and b"content-length" not in names:
        lines.append(b"Content-Length: " + (length or b"%d" % len(body)))
    return b"\r\n".join([*lines, b"", b""]) + body


def _json(members: bytes) -> bytes:
    return post(HELLO[:-1] + b"," + members + b"}")


OPEN = False

ROWS = (
    # Two readers of one message must not find two different requests in it.
    Row(
        "smuggle: length and chunks",
        post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (400,),
    ),
    Row("smuggle: two lengths", post(HELLO, b"Content-Length: 5", b"Content-Length: 6"), (400,)),
    Row(
        "smuggle: equal lengths",
        post(HELLO, b"Content-Length: 71", b"Content-Length: 71"),
        (400,),
    ),
    Row("smuggle: a list of lengths", post(HELLO, b"Content-Length: 71, 71"), (400,)),
    Row("smuggle: a sign in the length", post(HELLO, b"Content-Length: +71"), (400,)),
    Row("smuggle: a negative length", post(HELLO, b"Content-Length: -1"), (400,)),
    Row("smuggle: a hexadecimal length", post(HELLO, b"Content-Length: 0x47"), (400,)),
    Row(
        "smuggle: an unknown transfer coding",
        post(HELLO, b"Transfer-Encoding: xchunked"),
        (400,),
    ),
    Row(
        "smuggle: chunked is not the last coding",
        post(HELLO, b"Transfer-Encoding: chunked, gzip"),
        (400,),
    ),
    Row("smuggle: a space before the colon", _get(b"/healthz", b"Content-Length : 5"), (400,)),
    Row("smuggle: a folded header", _get(b"/healthz", b"X: a", b" b"), (400,)),
    Row(
        "smuggle: a bare line feed in a header",
        _get(b"/healthz", b"X: a\nTransfer-Encoding: chunked"),
        (400,),
    ),
    Row("smuggle: a bare carriage return", _get(b"/healthz", b"X: a\rY: b"), (400,)),
    Row("smuggle: NUL in a header", _get(b"/healthz", b"X: a\0b"), (400,)),
    Row(
        "smuggle: a chunk size with an underscore",
        post(b"1_0\r\nx\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        (400,),
    ),
    Row(
        "smuggle: a chunk size too large",
        post(b"FFFFFFFFFFFFFFFFF\r\nx", b"Transfer-Encoding: chunked"),
        (400,),
    ),
    Row(
        "smuggle: a chunk longer than its size",
        post(b"1\r\nabc\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        (400,),
    ),
    # Who is meant by the request.
    Row("host: missing", _get(host=None), (400,), None),
    Row("host: empty", _get(host=b""), (400,), OPEN),
    Row("host: two", _get(b"/healthz", b"Host: other"), (400,)),
    Row("host: another name", _get(host=b"evil.example"), (400,), OPEN),
    Row("host: ends as ours", _get(host=b"127.0.0.1.evil.example"), (400,), OPEN),
    Row("host: another address", _get(host=b"192.0.2.1"), (400,), OPEN),
    Row("host: only a port", _get(host=b":5270"), (400,), OPEN),
    Row("host: a fragment", _get(host=b"localhost:4000/#@x"), (400,), OPEN),
    Row("host: a user", _get(host=b"localhost@evil.example"), (400,), OPEN),
    Row("host: a path", _get(host=b"localhost/x"), (400,), OPEN),
    Row("host: two with a comma", _get(host=b"localhost, evil.example"), (400,), OPEN),
    Row("host: ours", _get(host=b"LOCALHOST:5270"), (200,), OPEN),
    Row("target: absolute", _get(b"http://127.0.0.1/healthz"), (400,), OPEN),
    Row("target: another authority", _get(b"http://evil.example/healthz"), (400,), OPEN),
    Row("target: asterisk", _get(b"*").replace(b"GET", b"OPTIONS"), (400,), OPEN),
    Row("target: CONNECT", _get(b"evil.example:443").replace(b"GET", b"CONNECT"), (400,), OPEN),
    # Web pages.
    Row("origin: foreign", _get(b"/healthz", b"Origin: https://evil.example"), (403,), OPEN),
    Row("origin: null", _get(b"/healthz", b"Origin: null"), (403,), OPEN),
    Row("origin: empty", _get(b"/healthz", b"Origin:"), (403,), OPEN),
    Row("origin: another port", _get(b"/healthz", b"Origin: http://127.0.0.1:1"), (403,), OPEN),
    Row("origin: cross-site", _get(b"/healthz", b"Sec-Fetch-Site: cross-site"), (403,), OPEN),
    Row("origin: text/plain", post(HELLO, b"Content-Type: text/plain"), (415,), OPEN),
    Row(
        "origin: a form",
        post(HELLO, b"Content-Type: application/x-www-form-urlencoded"),
        (415,),
        OPEN,
    ),
    Row("origin: no type", post(HELLO, b"Content-Type:"), (415,), OPEN),
    # Sizes.
    Row("size: a line", _get(b"/" + b"a" * 70_000), (400,)),
    Row("size: a header", _get(b"/healthz", b"X: " + b"a" * 70_000), (400,)),
    Row("size: many headers", _get(b"/healthz", *[b"X-%d: 1" % n for n in range(1000)]), (400,)),
    Row("size: a length over the limit", post(b"{", length=b"99999999"), (413,)),
    Row("size: a length over 64 bits", post(b"{", length=b"9" * 40), (400,)),
    Row("size: a compressed body", post(HELLO, b"Content-Encoding: gzip"), (415,), OPEN),
    Row(
        "size: a coding in two headers",
        post(HELLO, b"Content-Encoding: identity", b"Content-Encoding: gzip"),
        (415,),
        OPEN,
    ),
    # Bodies.
    Row("json: bad UTF-8", post(HELLO.replace(b"say", b"\xff")), (400,), OPEN),
    Row("json: UTF-16", post(HELLO.decode().encode("utf-16")), (400,), OPEN),
    Row("json: a lone surrogate", post(HELLO.replace(b"say", b"\\ud800")), (400,), OPEN),
    Row("json: a surrogate in a member that is skipped", _json(b'"x":"\\ud800"'), (400,), OPEN),
    Row("json: depth in a member that is skipped", _json(b'"x":' + b"[" * 100_000), (400,), OPEN),
    Row(
        "json: depth in a schema",
        _json(
            b'"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":'
            + b'{"items":' * 65
            + b"{}"
            + b"}" * 67
        ),
        (400,),
        OPEN,
    ),
    Row("json: NaN", _json(b'"temperature":NaN'), (400,), OPEN),
    Row("json: a number out of range", _json(b'"temperature":1e999'), (400,), OPEN),
    Row("json: model twice", _json(b'"model":"demo"'), (400,), OPEN),
    Row("json: messages twice", _json(b'"messages":[]'), (400,), OPEN),
    Row("json: a name twice, once escaped", _json(b'"mod\\u0065l":"demo"'), (400,), OPEN),
    Row("json: an unknown member twice", _json(b'"x":1,"x":1'), (400,), OPEN),
    Row(
        "json: 100,000 messages, then none",
        post(
            b'{"model":"scripted","messages":[%b],"messages":[]}'
            % b",".join([b'{"role":"user","content":"x"}'] * 100_000)
        ),
        (400,),
        OPEN,
    ),
    Row(
        "json: 100,000 members",
        _json(b",".join(b'"x%d":1' % number for number in range(100_000))),
        (400,),
        OPEN,
    ),
    Row("json: trailing text", post(HELLO + b"x"), (400,), OPEN),
    Row("json: two documents", post(HELLO + HELLO), (400,), OPEN),
    Row("json: an array", post(b"[]"), (400,), OPEN),
    Row("json: empty", post(b""), (400,), OPEN),
    Row(
        "json: 100,000 messages",
        post(
            b'{"model":"scripted","messages":[%b]}'
            % b",".join([b'{"role":"user","content":"x"}'] * 100_000)
        ),
        (400,),
        OPEN,
    ),
    # Paths.
    Row("path: dots", _get(b"/v1/../healthz"), (404,), OPEN),
    Row("path: encoded dots", _get(b"/v1/%2e%2e/healthz"), (404,), OPEN),
    Row("path: encoded slash", _get(b"/%2Fhealthz"), (404,), OPEN),
    Row("path: double slash", _get(b"//healthz"), (404,), OPEN),
    Row("path: a semicolon", _get(b"/healthz;x"), (404,), OPEN),
    Row("path: a file as a model", _get(b"/v1/models/..%2F..%2Fetc%2Fpasswd"), (404,), OPEN),
    Row("path: NUL", _get(b"/v1/models/a%00b"), (404,), OPEN),
    Row("method: unknown", _get().replace(b"GET", b"BREW"), (400,)),
    Row("method: not of this route", _get(CHAT), (405,), OPEN),
    Row("method: in lower case", _get().replace(b"GET", b"get"), (400, 405), None),
    # Other protocols on this port.
    Row("protocol: HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    *(
        Row(f"protocol: {version}", _get().replace(b"HTTP/1.1", version.encode()), (400,))
        for version in ("HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9.9")
    ),
    Row("protocol: a TLS hello", bytes.fromhex("1603010200010001fc0303") + b"\0" * 500, (400,)),
    Row("protocol: noise", bytes(range(256)) * 8, (400,)),
    Row("protocol: SMTP", b"EHLO example\r\n", (400,)),
    Row(
        "header: bytes over 0x80",
        _get(b"/v1/models", b"Authorization: Bearer \xff\xfe\x80"),
        (200,),
        OPEN,
    ),
)
