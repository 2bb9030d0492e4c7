"""The last good catalog of each service, kept in a file between programs."""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from foundry_api.messages import Model
from foundry_api.service.paths import Paths
from foundry_api.service.private_file import read_file, replace_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CatalogStore", "StoredCatalog"]

log = logging.getLogger("foundry_api")

MAX_BYTES = 4 * 2**20
"""Microsoft's catalog has some hundred variants of some hundred bytes each."""

PRIVATE_DIRECTORY = 0o700


class StoredCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """A catalog as it was.

    Attributes:
        source: Whose catalog it is.
        fetched_at: When the service reached it, in seconds since the epoch.
        asked_at: When the service was asked for it, in seconds since the epoch.
        models: Its variants. What was cached and loaded then says nothing of now.
    """

    source: str
    fetched_at: float
    asked_at: float
    models: tuple[Model, ...]


class CatalogStore:
    """A file for each source, in the state directory.

    Args:
        home: As `Paths.of` takes it.
    """

    def __init__(self, home: Path | None) -> None:
        self._home = home

    @cached_property
    def _directory(self) -> Path:
        return Paths.of(self._home).state

    def read(self, source: str) -> StoredCatalog | None:
        """The last good catalog of a source; None without one, and for a file that is damaged."""
        try:
            content = read_file(self._file(source), MAX_BYTES)
            stored = msgspec.json.decode(content, type=StoredCatalog)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            log.debug("the last good catalog cannot be read: %s", error)
            return None
        return stored if stored.source == source else None

    def write(self, catalog: StoredCatalog) -> None:
        """Keep a catalog. One that cannot be kept is only told of: nothing depends on it."""
        content = msgspec.json.encode(catalog)
        if len(content) > MAX_BYTES:
            log.debug("a catalog of %d bytes is not kept", len(content))
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
            replace_file(self._file(catalog.source), content)
        except OSError as error:
            log.debug("the catalog cannot be kept: %s", error)

    def _file(self, source: str) -> Path:
        name = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self._directory / f"catalog-{name}.json"
