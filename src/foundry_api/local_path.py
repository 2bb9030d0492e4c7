"""Paths that the user gives and that another process may open, which has another directory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["absolute_path"]


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
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its name is not valid UTF-8") from error
    try:
        absolute = Path(text).expanduser().absolute()
        # The engine takes no `..`; what it means behind a link is known to the file system alone.
        return absolute.resolve() if ".." in absolute.parts else absolute
    except RuntimeError as error:
        why = "a link in it leads to itself"
        if text.startswith("~"):
            why = f"there is no home directory for {Path(text).parts[0]}"
        raise ValueError(why) from error
    except OSError as error:
        raise ValueError("it is relative, and the working directory is gone") from error
