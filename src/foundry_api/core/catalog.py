"""What a service's catalog tells: asked, remembered, and shown as old when it cannot be reached.

Of what is remembered only the descriptions are used. Which models are cached and loaded is asked
each time: it is a matter of milliseconds, while the catalog takes seconds offline.
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

from foundry_api.engine.host.catalog import PublicListing
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

MAX_BYTES = 4 * 2**20
"""Microsoft's catalog has some hundred variants of some hundred bytes each."""


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
        home: As `Paths.from_home` takes it.
    """

    def __init__(self, home: Path | None) -> None:
        self._home = home

    @cached_property
    def _directory(self) -> Path:
        return Paths.from_home(self._home).state

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


MAX_AGE_S = 600.0
"""So long a catalog counts as fresh. Microsoft's changes every few days."""


class CatalogListing(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A catalog, and how old that knowledge is.

    Attributes:
        models: Every variant, with what is cached and loaded now.
        fetched_at: When the catalog was last reached, in seconds since the epoch.
        fresh: Whether it could be reached when it was last asked, at most `max_age_s` ago.
        unreachable: Why it could not be reached; None where it is fresh.
    """

    models: tuple[Model, ...]
    fetched_at: float
    fresh: bool
    unreachable: str | None = None


class CatalogSource(Protocol):
    """The service whose catalog it is."""

    endpoint: Endpoint
    dialect: Dialect
    control: ControlClient | None

    @property
    def loaded(self) -> Sequence[str]:
        """Ids of the models that were loaded through this connection."""
        ...


class Catalog:
    """The catalog of one service.

    Args:
        service: Is asked.
        store: Keeps the last good catalog; None keeps nothing.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        service: CatalogSource,
        store: CatalogStore | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._store = store
        self._clock = clock

    async def listing(
        self, *, refresh: bool = False, max_age_s: float = MAX_AGE_S
    ) -> CatalogListing:
        """The catalog, asked unless it was lately.

        Args:
            refresh: Ask the service in any case.
            max_age_s: So long it need not be asked again.

        Raises:
            CatalogUnavailable: It cannot be reached, and never was.
        """
        if not refresh and (known := await self.cached_listing(max_age_s)):
            return known
        look = await self._locate_cache() if self._store else _CacheLocation("", None)
        stored = self._store.read(look.source) if self._store else None
        try:
            listing = await self._ask()
        except CatalogUnavailable as error:
            if stored is None:
                raise
            return await self._from_store(stored, look, unreachable=error.message)
        return self._to_listing(listing, look)

    async def cached_listing(self, max_age_s: float = MAX_AGE_S) -> CatalogListing | None:
        """What the service said lately, where what is cached can be told without asking it."""
        if self._store is None:
            return None
        look = await self._locate_cache()
        stored = self._store.read(look.source)
        age = self._clock() - stored.asked_at if stored else -1.0
        if stored is None or look.held is None or not 0 <= age < max_age_s:
            return None
        return await self._from_store(stored, look)

    async def local_models(self) -> Sequence[Model]:
        """Models on this machine: registered directories, and what was downloaded.

        Of downloads the service tells only after it asked the remote catalog, which takes seconds
        offline; so it is asked only for those that are not remembered.
        """
        control, dialect = self._service.control, self._service.dialect
        local = await (control.list_local_models() if control else dialect.list_local_models())
        if dialect.capabilities.cached == "native":
            return local
        look = await self._locate_cache()
        if look.held is not None and not look.held:
            return local
        stored = self._store.read(look.source) if self._store else None
        if stored and look.held and {model.id for model in stored.models} >= look.held.keys():
            public: Sequence[Model] = (await self._from_store(stored, look)).models
        else:
            public = await self._fetch_public_or_nothing()
        return [*local, *(model for model in public if model.cached or model.loaded)]

    async def _ask(self) -> PublicListing:
        control = self._service.control
        if control is not None:
            return await control.list_public_models()
        return PublicListing(models=tuple(await self._service.dialect.list_public_models()))

    async def _fetch_public_or_nothing(self) -> Sequence[Model]:
        try:
            return (await self._ask()).models
        except CatalogUnavailable:
            return ()

    def _to_listing(self, listing: PublicListing, look: _CacheLocation) -> CatalogListing:
        """What the service said, which is kept if it is of now."""
        now = self._clock()
        fetched_at = listing.fetched_at or now
        if self._store is not None and listing.unreachable is None:
            self._store.write(
                StoredCatalog(
                    source=look.source, fetched_at=fetched_at, asked_at=now, models=listing.models
                )
            )
        return CatalogListing(
            models=listing.models,
            fetched_at=fetched_at,
            fresh=listing.unreachable is None,
            unreachable=listing.unreachable,
        )

    async def _from_store(
        self, stored: StoredCatalog, look: _CacheLocation, *, unreachable: str | None = None
    ) -> CatalogListing:
        """What is remembered, with what is cached and loaded now."""
        loaded = await self._loaded()
        held = look.held
        elsewhere = None if held is None else False
        if held is None:
            here = await self._service.dialect.list_local_models()
            held = {model.id: model.path for model in here if model.cached is not False}
        return CatalogListing(
            models=tuple(_refresh_flags(model, held, loaded, elsewhere) for model in stored.models),
            fetched_at=stored.fetched_at,
            fresh=unreachable is None,
            unreachable=unreachable,
        )

    async def _loaded(self) -> frozenset[str]:
        """Ids of the models in memory.

        An engine asks the catalog before it tells, which is what should not be waited for. One of
        our own has nothing in memory but what we loaded.
        """
        if self._service.endpoint.origin == "embedded":
            return frozenset(self._service.loaded)
        return await self._service.dialect.get_loaded_ids()

    async def _locate_cache(self) -> _CacheLocation:
        """What the service says of itself, and which downloads lie where it keeps them."""
        service = self._service
        status = await service.dialect.get_status()
        host_info = await service.control.get_host_info() if service.control else None
        cache = status.cache_dir
        whose = (
            status.service_generation,
            cache or service.endpoint.base_url,
            host_info and host_info.catalog_url,
        )
        source = " ".join(part for part in whose if part)
        if cache is None or not is_loopback(service.endpoint.base_url):
            return _CacheLocation(source, None)
        return _CacheLocation(
            source, _downloaded_paths(cache, service.endpoint.base_url, ours=host_info is not None)
        )


@dataclass(frozen=True, slots=True)
class _CacheLocation:
    """Where a catalog is kept, and the downloads that are known: paths by id, or None."""

    source: str
    held: Mapping[str, str | None] | None


def _downloaded_paths(cache: str, base_url: str, *, ours: bool) -> Mapping[str, str | None] | None:
    """The downloads in a cache directory; None where that cannot be told.

    How other generations lay out their cache is not known well enough to say more than: nothing.
    """
    if not ours:
        return None if may_hold_downloads(base_url, cache) else {}
    try:
        return {model: str(path) for model, path in list_downloaded(Path(cache)).items()}
    except FileNotFoundError:
        return {}
    except OSError:  # not ours to look into: the service may still hold some
        return None


def _refresh_flags(
    model: Model,
    held: Mapping[str, str | None],
    loaded: frozenset[str],
    elsewhere: bool | None,  # noqa: FBT001 - a value for `cached`
) -> Model:
    return msgspec.structs.replace(
        model,
        cached=True if model.id in held or model.id in loaded else elsewhere,
        loaded=model.id in loaded,
        path=held.get(model.id),
    )
