"""The key of an upstream, in a file of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foundry_api.types.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KeyFile"]

MAX_BYTES = 64 * 1024  # longer than any token; the file may be something else by mistake
_KEY = re.compile(r"[\x21-\x7e]+")


class KeyFile:
    """A file with a key. Calling it returns the key that was read last.

    Raises:
        ConfigurationError: The file cannot be read, or has no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = self._read()

    def __call__(self) -> str:
        """Return the key."""
        return self._key

    def reload(self) -> None:
        """Read the file again; if it cannot be used, the former key stays in use.

        Raises:
            ConfigurationError: As above.
        """
        self._key = self._read()

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES)
        except OSError as error:
            raise ConfigurationError(
                f"key_file {self._path} cannot be read: {error.strerror}"
            ) from error
        key = content.decode("utf-8", "replace").strip()
        if not _KEY.fullmatch(key):
            raise ConfigurationError(
                f"key_file {self._path} "
                + (
                    "is empty"
                    if not key
                    else "has more than a key: white space or other characters"
                ),
                hint="Write the key alone into it, without 'Bearer '.",
            )
        return key
