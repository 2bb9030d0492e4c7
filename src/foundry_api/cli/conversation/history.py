"""The messages that the arrow keys bring back, in a file that only this user can read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
from prompt_toolkit.history import History

from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.private_file import create_file, read_file, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["FileHistory"]

MAX_ENTRIES = 1000
MAX_BYTES = 4 * 2**20

log = logging.getLogger("foundry_api")


class FileHistory(History):
    """A history in a file, one JSON string a line. It is shortened when it is read.

    Problems with the file are logged, and the history is then kept in memory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Return the messages, newest first."""
        try:
            raw = read_file(self._path, 2 * MAX_BYTES)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("the history %s cannot be read: %s", self._path, error.strerror)
            return
        lines = raw.splitlines(keepends=True)
        kept, size = lines[-MAX_ENTRIES:], 0
        entries: list[str] = []
        for line in reversed(kept):
            size += len(line)
            if size > MAX_BYTES:
                break
            try:
                entries.append(msgspec.json.decode(line, type=str))
            except (msgspec.DecodeError, UnicodeError):
                continue  # a line that was cut when the machine stopped
        if len(lines) > MAX_ENTRIES or size > MAX_BYTES:
            content = b"".join(msgspec.json.encode(entry) + b"\n" for entry in reversed(entries))
            try:
                replace_file(self._path, content)
            except OSError as error:
                log.warning("the history %s cannot be shortened: %s", self._path, error.strerror)
        yield from entries

    def store_string(self, string: str) -> None:
        """Append a message."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
            create_file(self._path)
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(string) + b"\n")
        except (OSError, UnicodeError) as error:
            log.warning("the history %s cannot be written: %s", self._path, error)
