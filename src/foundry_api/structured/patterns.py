"""Which regular expressions the engine reads. Its grammar library uses Rust's."""

from __future__ import annotations

import re

__all__ = ["engine_reads", "loosened"]

_NOTABLE = re.compile(r"\\(.)|\(\?(<?[=!]|P=|[>(#])|\{(,)|\[\^?[^\]\\]*(\[|&&|--|~~)", re.DOTALL)
"""Escapes, look-around and other groups, `{,n}`, and set operations of a character class."""

_LOOK_AROUND = re.compile(r"(?<!\\)\(\?<?[=!][^()\[\]\\]*\)(?![*+?{])")
"""A condition on what stands beside it, without further groups or classes within."""

_REFUSED_ESCAPES = frozenset("123456789bBAzZGkKcuN")
_UNICODE_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")


def engine_reads(pattern: str) -> bool:
    r"""Whether the engine of 2.2.1 takes a pattern and means the same by it (probed).

    It refuses look-around, back-references, word boundaries and anchors other than `^` and `$`.
    """
    return not any(map(_is_foreign, _NOTABLE.finditer(_UNICODE_ESCAPE.sub("x", pattern))))


def loosened(pattern: str) -> str | None:
    """What the engine reads of a pattern: that without look-around, which only narrows it.

    None where that is nothing, or still too much.
    """
    rest = _LOOK_AROUND.sub("", pattern)
    if not engine_reads(rest) or (rest != pattern and not rest.strip("^$")):
        return None
    return rest


def _is_foreign(found: re.Match[str]) -> bool:
    return found[1] is None or found[1] in _REFUSED_ESCAPES
