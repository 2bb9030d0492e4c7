"""Errors of the keys and their database."""

from __future__ import annotations

from foundry_api.types.errors import FoundryError

__all__ = ["KeyNotFound", "KeyStorageFailed"]


class KeyNotFound(FoundryError, LookupError):
    """No key has that id or name."""

    default_hint = "List the keys with `foundry-api keys list`."


class KeyStorageFailed(FoundryError):
    """The database of the keys cannot be read or changed; what it contains is kept."""

    default_hint = "Check the disk and the permissions of the directory, then try again."
