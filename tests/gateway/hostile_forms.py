"""Hostile forms, for each route that takes a file."""

from __future__ import annotations

from gateway.helpers import make_recording
from gateway.hostile import OPEN, Row, post

__all__ = ["FORM_ROWS"]

FORM = b"multipart/form-data; boundary=x"
DISPOSITION = b"Content-Disposition: form-data; "


def _part(parameters: bytes, content: bytes, *headers: bytes) -> bytes:
    lines = [DISPOSITION + parameters, *headers, b"", content, b""]
    return b"--x\r\n" + b"\r\n".join(lines)


def _field(name: bytes, content: bytes) -> bytes:
    return _part(b'name="%b"' % name, content)


def _make_rows(target: bytes, fields: bytes, content: bytes) -> tuple[Row, ...]:
    end = b"--x--\r\n"

    def file(*headers: bytes, name: bytes = b"f") -> bytes:
        return _part(b'name="file"; filename="%b"' % name, content, *headers)

    def row(
        name: str,
        *parts: bytes,
        status: int = 400,
        kind: bytes = FORM,
        closed: bool | None = OPEN,
    ) -> Row:
        data = post(b"".join(parts), b"Content-Type: " + kind, target=target)
        route = target.rpartition(b"/")[2].decode()
        return Row(f"form of {route}: {name}", data, (status,), closed)

    return (
        row("complete", fields, file(), end, status=200),
        row("filename=../../x", fields, file(name=b"../../x"), end, status=200),
        row("an absolute filename", fields, file(name=b"/etc/passwd"), end, status=200),
        row("NUL in the filename", fields, file(name=b"a\0b"), end),
        row("bytes in the filename", fields, file(name=b"\xff"), end),
        # What a part says about its type decides nothing.
        row("another content type", fields, file(b"Content-Type: text/html"), end, status=200),
        row("10,000 parts", fields, _field(b"n[]", b"") * 10_000, file(), end, closed=None),
        row("no parts", end),
        row("only a file", file(), end),
        row("no file", fields, end),
        row("two files", fields, file(), file(), end),
        row("a field twice", fields, fields, file(), end),
        row("an unknown field twice", fields, _field(b"y", b"") * 2, file(), end),
        row("a part without a name", fields, _part(b'filename="f"', b"f"), file(), end),
        row("a part without a head", fields, b"--x\r\n\r\ntext\r\n", file(), end),
        row("no boundary", fields, file(), end, kind=b"multipart/form-data"),
        row("an empty boundary", fields, file(), end, kind=FORM[:-1]),
        row("a long boundary", fields, file(), end, kind=FORM + b"x" * 70),
        row("bytes as a boundary", fields, file(), end, kind=FORM[:-1] + b"\xff"),
        row("a boundary that does not occur", fields, file(), end, kind=FORM + b"y"),
        row("a boundary that never ends", fields, file()),
        row("a head that never ends", fields, file(), b"--x\r\n" + DISPOSITION),
        row("lines without a boundary", b"\r\n" * 100_000),
        row("a line without an end", b"-" * 1_000_000, closed=None),
        row("text between parts", fields, b"text\r\n", file(), end),
        row("a header without a colon", fields, file(b"X"), end),
        row("a space before the colon", fields, file(b"X : 1"), end),
        row("a huge header", fields, file(b"X: " + b"x" * 70_000), end),
        row("many headers", fields, file(*[b"X-%d: 1" % n for n in range(1000)]), end),
        row("a form in the form", fields, file(b"Content-Type: multipart/mixed; boundary=y"), end),
        row("a form without a boundary in it", file(b"Content-Type: multipart/mixed"), end),
        row("a compressed part", fields, file(b"Content-Encoding: gzip"), end, status=415),
        row(
            "a part in base64",
            fields,
            file(b"Content-Transfer-Encoding: base64"),
            end,
            status=415,
        ),
        row("a length of a part", fields, file(b"Content-Length: 1"), end, status=200),
        row("a field that is not UTF-8", fields, _field(b"y", b"\xff"), file(), end),
        row("a field of 70,000 bytes", _field(b"y", b"y" * 70_000), end, closed=None),
        row("a charset", _field(b"_charset_", b"utf-8"), fields, file(), end),
        row("a long charset", _field(b"_charset_", b"y" * 100), fields, file(), end),
        row("an empty file", fields, _part(b'name="file"; filename="f"', b""), end),
        row("as a text", fields, file(), end, kind=b"text/plain"),
        row("as JSON", b"{}", kind=b"application/json"),
        row("as another form", b"file=x", kind=b"application/x-www-form-urlencoded"),
        row("another multipart", fields, file(), end, kind=b"multipart/mixed; boundary=x"),
    )


FORM_ROWS = (
    *_make_rows(b"/v1/audio/transcriptions", _field(b"model", b"transcriber"), make_recording(0.5)),
    *_make_rows(b"/v1/files", _field(b"purpose", b"batch"), b"{}\n"),
)
