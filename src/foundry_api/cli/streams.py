"""Standard streams as they come on Linux, macOS and Windows, made the same."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TextIO

__all__ = ["speak_utf8"]


def speak_utf8() -> None:
    """Read and write UTF-8, whatever the code page is.

    A pipe or file on Windows has the ANSI code page, in which most answers cannot be written. What
    cannot be encoded even so, such as half a surrogate pair in a file's name, is escaped.
    """
    _reconfigure(sys.stdin, "strict")
    _reconfigure(sys.stdout, "backslashreplace")
    _reconfigure(sys.stderr, "backslashreplace")


def _reconfigure(stream: TextIO | None, errors: str) -> None:
    """Tests and notebooks put other objects in a stream's place; a closed one is None."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors=errors)
