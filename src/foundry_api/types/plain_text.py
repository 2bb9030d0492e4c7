"""Decode text of users, and escape control characters in text from outside.

An answer or an error could otherwise control the terminal (change its title, its colours or the
clipboard), reorder the displayed text, or forge a log line; also in logs and on web pages.
"""

from __future__ import annotations

import codecs
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SanitizingFilter", "decode_unicode", "escape_json", "sanitize", "sanitize_line"]

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_C1 = range(0x7F, 0xA0)
# Overrides, embeddings and isolates of text direction. The marks U+200E, U+200F and U+061C are left
# out: they affect only their neighbours, and right-to-left text needs them.
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINE_ENDS = (0x2028, 0x2029)
_HIDDEN = (*_C1, *_BIDI, *_LINE_ENDS)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - a byte


_TEXT_ESCAPES = {
    **{code: _escape(code) for code in (*range(0x20), *_HIDDEN)},
    ord("\t"): "\t",
    ord("\n"): "\n",
    ord("\r"): "",  # on its own, it would overwrite the line
}
_LINE_ESCAPES = {**_TEXT_ESCAPES, ord("\n"): "\\n", ord("\r"): "\\r"}
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in _HIDDEN}


def decode_unicode(raw: bytes) -> str:
    """Decode UTF-8, or UTF-16 that begins with its mark; a mark is left out.

    The `>` of Windows PowerShell writes UTF-16, and editors of Windows mark UTF-8 too. Raises
    UnicodeDecodeError.
    """
    return raw.decode("utf-16" if raw.startswith(_UTF16_MARKS) else "utf-8-sig")


def sanitize(text: str) -> str:
    """Escape control characters in text of several lines."""
    return text.translate(_TEXT_ESCAPES)


def sanitize_line(text: str) -> str:
    """Escape control characters and line breaks, so that the text is one line."""
    return text.translate(_LINE_ESCAPES)


def escape_json(document: str) -> str:
    """Escape control characters in a JSON document, which has them only inside of strings."""
    return document.translate(_JSON_ESCAPES)


class SanitizingFilter(logging.Filter):
    """Escapes control characters and line breaks in the arguments of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the record's arguments and return True."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(_sanitize_argument, record.args))
        elif record.args:
            arguments: Mapping[str, object] = record.args
            record.args = {name: _sanitize_argument(value) for name, value in arguments.items()}
        return True


def _sanitize_argument(value: object) -> object:
    return sanitize_line(str(value)) if isinstance(value, str | BaseException) else value
