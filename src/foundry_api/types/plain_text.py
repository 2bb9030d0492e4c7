"""Text from outside, made harmless before a person sees it on a terminal, in a log or on a page.

A model's answer, a service's error or a model's name could otherwise steer the terminal (retitle
it, recolour it, write into its clipboard), show text in another order than it is stored in, or pass
for a log line of its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SanitizingFilter", "escape_json", "sanitize", "sanitize_line"]

_C1 = range(0x7F, 0xA0)
_REORDERING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Overrides, embeddings and isolates of text direction. The marks U+200E, U+200F and U+061C move
nothing but their neighbours, and honest right-to-left text needs them."""

_LINE_ENDS = (0x2028, 0x2029)
_HIDDEN = (*_C1, *_REORDERING, *_LINE_ENDS)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - a byte


_TEXT_ESCAPES = {
    **{code: _escape(code) for code in (*range(0x20), *_HIDDEN)},
    ord("\t"): "\t",
    ord("\n"): "\n",
    ord("\r"): "",
}
"""A carriage return is dropped: it ends lines, too."""

_LINE_ESCAPES = {**_TEXT_ESCAPES, ord("\n"): "\\n", ord("\r"): "\\r"}
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in _HIDDEN}


def sanitize(text: str) -> str:
    """Return text, of any number of lines, without what a terminal would obey."""
    return text.translate(_TEXT_ESCAPES)


def sanitize_line(text: str) -> str:
    """Return text as one line, without what a terminal would obey."""
    return text.translate(_LINE_ESCAPES)


def escape_json(document: str) -> str:
    """Return the same JSON with such characters escaped, which can only be inside its strings."""
    return document.translate(_JSON_ESCAPES)


class SanitizingFilter(logging.Filter):
    """Keeps what a log record quotes on one line, for every log handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record's arguments; let it pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(_sanitize_argument, record.args))
        elif record.args:
            arguments: Mapping[str, object] = record.args
            record.args = {name: _sanitize_argument(value) for name, value in arguments.items()}
        return True


def _sanitize_argument(value: object) -> object:
    return sanitize_line(str(value)) if isinstance(value, str | BaseException) else value
