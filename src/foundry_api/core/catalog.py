"""The model catalog of a service, with a stored copy for when it cannot be reached.

Only the descriptions come from the copy. Which models are cached and loaded is requested each time:
that takes milliseconds, while the catalog takes seconds offline.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from foundry_api.engine.control_messages import PublicListing
from foundry_api.engine.models.download_cache import list_downloaded, may_hold_downloads
from foundry_api.storage.paths import PRIVATE_DIRECTORY, Paths
from foundry_api.storage.private_file import read_file, replace_file
from foundry_api.types.errors import CatalogUnavailable
from foundry_api.types.models import Model
from foundry_api.types.serialization import Result
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foundry_api.engine.control import ControlClient
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.wire.dialects.base import Dialect

__all__ = ["MAX_AGE_S", "Catalog", "CatalogListing", "CatalogStore", "StoredCatalog"]

log = logging.getLogger("foundry_api")

MAX_BYTES = 4 * 2**20  # Microsoft's catalog has a few hundred variants of a few hundred bytes each
MAX_AGE_S = 600.0  # Microsoft's catalog changes every few days


class StoredCatalog(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a catalog. Times are in seconds since the epoch."""

    source: str
    fetched_at: float  # when the service reached the catalog
    asked_at: float  # when we requested it; the service may have answered from its own cache
    models: tuple[Model, ...]  # their `cached` and `loaded` are outdated


class CatalogStore:
    """Stores catalogs in the state directory, one file per source."""

    def __init__(self, home: Path | None) -> None:
        self._home = home

    @cached_property
    def _directory(self) -> Path:
        return Paths.from_home(self._home).state

    def read(self, source: str) -> StoredCatalog | None:
        """Return the last catalog of a source, or None if there is none or the file is damaged."""
        try:
            content = read_file(self._file(source), MAX_BYTES)
            stored = msgspec.json.decode(content, type=StoredCatalog)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            log.debug("the stored catalog cannot be read: %s", error)
            return None
        return stored if stored.source == source else None  # file names are short hashes

    def write(self, catalog: StoredCatalog) -> None:
        """Store a catalog. Errors are only logged: the copy is an optimization."""
        content = msgspec.json.encode(catalog)
        if len(content) > MAX_BYTES:
            log.debug("a catalog of %d bytes is too large to be stored", len(content))
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
            replace_file(self._file(catalog.source), content)
        except OSError as error:
            log.debug("the catalog cannot be stored: %s", error)

    def _file(self, source: str) -> Path:
        name = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self._directory / f"catalog-{name}.json"


class CatalogListing(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The models of a catalog.

    Attributes:
        models: All variants. Their `cached` and `loaded` are current.
        fetched_at: When the service last reached the catalog, in seconds since the epoch.
        fresh: Whether the catalog could be reached the last time, at most `max_age_s` ago.
        unreachable: Why the catalog could not be reached, or None if it is fresh.
    """

    models: tuple[Model, ...]
    fetched_at: float
    fresh: bool
    unreachable: str | None = None


class CatalogSource(Protocol):
    """The part of `Connection` that a catalog needs."""

    endpoint: Endpoint
    dialect: Dialect
    control: ControlClient | None

    @property
    def loaded(self) -> Sequence[str]:
        """Ids of the models that were loaded through this connection."""
        ...


@dataclass(frozen=True, slots=True)
class _CacheLocation:
    """Identifies a catalog, and the models downloaded from it: paths by id, None if unknown."""

    source: str
    downloads: Mapping[str, str | None] | None


class Catalog:
    """The catalog of one service."""

    def __init__(
        self,
        service: CatalogSource,
        store: CatalogStore | None,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._store = store
        self._wall_clock = wall_clock

    async def get_listing(
        self, *, refresh: bool = False, max_age_s: float = MAX_AGE_S
    ) -> CatalogListing:
        """Return the catalog, from the stored copy unless it is too old or `refresh` is set.

        Raises CatalogUnavailable only if there is no stored copy either.
        """
        if not refresh and (known := await self.get_cached_listing(max_age_s)):
            return known
        location = await self._locate_cache() if self._store else _CacheLocation("", None)
        stored = self._store.read(location.source) if self._store else None
        try:
            listing = await self._fetch()
        except CatalogUnavailable as error:
            if stored is None:
                raise
            return await self._update_flags(stored, location, unreachable=error.message)
        now = self._wall_clock()
        fetched_at = listing.fetched_at or now
        if self._store is not None and listing.unreachable is None:
            catalog = StoredCatalog(
                source=location.source, fetched_at=fetched_at, asked_at=now, models=listing.models
            )
            self._store.write(catalog)
        return CatalogListing(
            models=listing.models,
            fetched_at=fetched_at,
            fresh=listing.unreachable is None,
            unreachable=listing.unreachable,
        )

    async def get_cached_listing(self, max_age_s: float = MAX_AGE_S) -> CatalogListing | None:
        """Return the stored copy, if it is recent and the downloads are known without a request."""
        if self._store is None:
            return None
        location = await self._locate_cache()
        stored = self._store.read(location.source)
        # An age below 0 means that the system clock was set back.
        age_s = self._wall_clock() - stored.asked_at if stored else -1.0
        if stored is None or location.downloads is None or not 0 <= age_s < max_age_s:
            return None
        return await self._update_flags(stored, location)

    async def list_local_models(self) -> Sequence[Model]:
        """Return the registered and the downloaded models."""
        control, dialect = self._service.control, self._service.dialect
        local = await (control.list_local_models() if control else dialect.list_local_models())
        if dialect.capabilities.cached == "native":
            return local  # the list has the downloads too
        # This generation lists downloads only after it has queried the remote catalog, which takes
        # seconds offline. So request them only if the stored copy does not describe all of them.
        location = await self._locate_cache()
        downloads = location.downloads
        if downloads is not None and not downloads:
            return local
        stored = self._store.read(location.source) if self._store else None
        public: Sequence[Model]
        if stored and downloads and {model.id for model in stored.models} >= downloads.keys():
            public = (await self._update_flags(stored, location)).models
        else:
            try:
                public = (await self._fetch()).models
            except CatalogUnavailable:
                public = ()
        return [*local, *(model for model in public if model.cached or model.loaded)]

    async def _fetch(self) -> PublicListing:
        control = self._service.control
        if control is not None:
            return await control.list_public_models()
        return PublicListing(models=tuple(await self._service.dialect.list_public_models()))

    async def _update_flags(
        self, stored: StoredCatalog, location: _CacheLocation, *, unreachable: str | None = None
    ) -> CatalogListing:
        """Return the stored models with their current `cached`, `loaded` and `path`."""
        if self._service.endpoint.origin == "embedded":
            # An embedded engine has only the models in memory that this client loaded. A request
            # would make it query the catalog first.
            loaded = frozenset(self._service.loaded)
        else:
            loaded = await self._service.dialect.get_loaded_ids()
        paths = location.downloads
        cached_if_missing = None if paths is None else False  # None: unknown
        if paths is None:
            local = await self._service.dialect.list_local_models()
            paths = {model.id: model.path for model in local if model.cached is not False}
        models = tuple(
            msgspec.structs.replace(
                model,
                cached=True if model.id in paths or model.id in loaded else cached_if_missing,
                loaded=model.id in loaded,
                path=paths.get(model.id),
            )
            for model in stored.models
        )
        return CatalogListing(
            models=models,
            fetched_at=stored.fetched_at,
            fresh=unreachable is None,
            unreachable=unreachable,
        )

    async def _locate_cache(self) -> _CacheLocation:
        service = self._service
        status = await service.dialect.get_status()
        host_info = await service.control.get_host_info() if service.control else None
        base_url, cache_dir = service.endpoint.base_url, status.cache_dir
        parts = (
            status.service_generation,
            cache_dir or base_url,
            host_info and host_info.catalog_url,
        )
        source = " ".join(part for part in parts if part)
        if cache_dir is None or not is_loopback(base_url):
            return _CacheLocation(source, None)
        if host_info is None:
            # The cache layout of other generations is known only well enough to see that it is
            # empty.
            return _CacheLocation(source, None if may_hold_downloads(base_url, cache_dir) else {})
        try:
            downloads = list_downloaded(Path(cache_dir))
        except FileNotFoundError:
            return _CacheLocation(source, {})
        except OSError:  # we may not read the directory, but the service may
            return _CacheLocation(source, None)
        return _CacheLocation(source, {model: str(path) for model, path in downloads.items()})
