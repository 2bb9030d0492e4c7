"""Reads text that the user names: files, and what standard input had."""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.observe.format import format_bytes
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.local_path import absolute_path
from foundry_api.types.plain_text import decode_unicode

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_BYTES", "TextFile", "add_files", "decode_text", "read_text_file"]

# More than any model reads: a megabyte of text exceeds the longest context.
MAX_BYTES = 16 * 2**20
MIN_FENCE = 3


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file that is part of a message."""

    name: str
    text: str


def read_text_file(path: str, field: str) -> TextFile:
    """Read a text file; `field` is the argument that errors name.

    A pipe is read too, such as that of `<(git diff)`.
    """
    try:
        location = absolute_path(path)
    except ValueError as error:
        raise InvalidRequest(f"{field} is {path!r}: {error}", field=field) from error
    try:
        mode = location.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InvalidRequest(
                f"{path} is a directory", field=field, hint="Give the files that you mean."
            )
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise InvalidRequest(f"{path} is a device, not a text file", field=field)
        with location.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", field=field) from error
    if len(raw) > MAX_BYTES:
        raise InvalidRequest(
            f"{path} is longer than {format_bytes(MAX_BYTES)}",
            field=field,
            hint="No model reads that much: give a part of it.",
        )
    text = decode_text(raw, path, field)
    if not text.strip():
        raise InvalidRequest(f"{path} is empty", field=field)
    return TextFile(Path(path).name, text)


def decode_text(raw: bytes, subject: str, field: str) -> str:
    """Decode text in UTF-8 or marked UTF-16; `subject` names it in errors."""
    try:
        text = io.StringIO(decode_unicode(raw), newline=None).read()  # line ends become `\n`
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{subject} is not text in UTF-8",
            field=field,
            hint="Convert it first. Models here read text only, no pictures or documents.",
        ) from error
    if "\0" in text:
        raise InvalidRequest(f"{subject} is not text: it contains NUL characters", field=field)
    return text


def add_files(prompt: str, files: Sequence[TextFile]) -> str:
    """Return a prompt followed by files, each with its name and in a fence of its own."""
    parts = [prompt] if prompt.strip() else []
    for file in files:
        text = file.text.rstrip("\n")
        fence = "`" * MIN_FENCE
        while fence in text:
            fence += "`"
        parts.append(f"{file.name}:\n{fence}\n{text}\n{fence}")
    return "\n\n".join(parts)
