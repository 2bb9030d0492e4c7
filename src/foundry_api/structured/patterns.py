"""Which regular expressions the engine reads. Its grammar library uses Rust's."""

from __future__ import annotations

import re

__all__ = ["engine_reads"]

_NOTABLE = re.compile(r"\\(.)|\(\?(<?[=!]|P=|[>(#])|\{(,)|\[\^?[^\]\\]*(\[|&&|--|~~)", re.DOTALL)
"""Escapes, look-around and other groups, `{,n}`, and set operations of a character class."""

_REFUSED_ESCAPES = frozenset("123456789bBAzZGkKcuN")
_UNICODE_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")


def engine_reads(pattern: str) -> bool:
    r"""Whether the engine of 2.2.1 takes a pattern and means the same by it (probed).

    It refuses look-around, back-references, word boundaries and anchors other than `^` and `$`.
    """
    return not any(map(_is_foreign, _NOTABLE.finditer(_UNICODE_ESCAPE.sub("x", pattern))))


def _is_foreign(found: re.Match[str]) -> bool:
    return found[1] is None or found[1] in _REFUSED_ESCAPES
