"""Paths and text from the command line and the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["absolute_path", "decode_system_text"]


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path for a process with another working directory; expand `~`.

    The message of its ValueError has no full stop.
    """
    try:
        text = os.fsdecode(path)
    except TypeError as error:
        raise ValueError(f"it is {type(path).__name__}, not a path") from error
    if not text.strip():
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    _check_encoding(text, "its name")
    try:
        absolute = Path(text).expanduser().absolute()
        # The engine rejects `..`. Only the file system knows where it leads after a link.
        absolute = absolute.resolve() if ".." in absolute.parts else absolute
    except RuntimeError as error:
        reason = "a link in it leads to itself"
        if text.startswith("~"):
            reason = f"there is no home directory for {Path(text).parts[0]}"
        raise ValueError(reason) from error
    except OSError as error:
        raise ValueError("it is relative, and the working directory is gone") from error
    _check_encoding(str(absolute), f"the name of its directory, {str(absolute.parent)!r},")
    return absolute


def _check_encoding(text: str, subject: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON and SQLite reject it
        try:
            decode_system_text(text)
        except ValueError:
            problem = "is not valid UTF-8"
        else:
            # Valid UTF-8, which Python did not decode because the locale's encoding is ASCII.
            encoding = sys.getfilesystemencoding()
            problem = f"cannot be read in the encoding of this locale, {encoding}: set PYTHONUTF8=1"
        raise ValueError(f"{subject} {problem}") from error


def decode_system_text(text: str) -> str:
    """Decode text from the command line or the environment as UTF-8, in any locale."""
    # In an ASCII locale, Python decodes each non-ASCII byte as a lone surrogate. Paths need no
    # decoding: Python opens them in this form.
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode()
    return text
