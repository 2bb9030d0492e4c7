"""Paths and other text of the command line and the environment.

Another process may open a path of the user, and it has another working directory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["absolute_path", "decode_system_text"]


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return a path as any process on this machine understands it.

    A leading `~` is expanded as in a shell. Links are not followed, unless a `..` needs it.

    Raises:
        ValueError: No file can have that path, or what it is relative to is not known. The message
            says what is wrong, without a full stop.
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
        # The engine takes no `..`; what it means behind a link is known to the file system alone.
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
    """Refuse what neither JSON nor SQLite takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{subject} {_describe_encoding_problem(text)}") from error


def _describe_encoding_problem(text: str) -> str:
    """In a locale of ASCII, Python takes the bytes of any other character for none."""
    try:
        decode_system_text(text)
    except ValueError:
        return "is not valid UTF-8"
    encoding = sys.getfilesystemencoding()
    return f"cannot be read in the encoding of this locale, {encoding}: set PYTHONUTF8=1"


def decode_system_text(text: str) -> str:
    """Text of the command line or the environment, in UTF-8 whatever the locale says.

    In a locale of ASCII, Python gives every other byte as half a surrogate pair. Paths stay so:
    Python opens them in that form.

    Raises:
        ValueError: It is not UTF-8.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode()
    return text
