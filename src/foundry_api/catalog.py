"""What a service's catalog tells: asked, remembered, and shown as old when it cannot be reached.

Of what is remembered only the descriptions are used. Which models are cached and loaded is asked
each time: it is a matter of milliseconds, while the catalog takes seconds offline.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from foundry_api.catalog_store import StoredCatalog
from foundry_api.errors import CatalogUnavailable
from foundry_api.messages import Model
from foundry_api.results import Result
from foundry_api.service.model_cache import downloaded, may_hold_downloads
from foundry_api.service.public_catalog import PublicListing
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foundry_api.catalog_store import CatalogStore
    from foundry_api.service.control import ControlClient
    from foundry_api.service.endpoint import Endpoint
    from foundry_api.wire.dialects.base import Dialect

__all__ = ["MAX_AGE_S", "Catalog", "CatalogListing"]

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


class Source(Protocol):
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
        service: Source,
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
        if not refresh and (known := await self.remembered(max_age_s)):
            return known
        look = await self._look() if self._store else _Look("", None)
        stored = self._store.read(look.source) if self._store else None
        try:
            told = await self._ask()
        except CatalogUnavailable as error:
            if stored is None:
                raise
            return await self._again(stored, look, unreachable=error.message)
        return self._told(told, look)

    async def remembered(self, max_age_s: float = MAX_AGE_S) -> CatalogListing | None:
        """What the service said lately, where what is cached can be told without asking it."""
        if self._store is None:
            return None
        look = await self._look()
        stored = self._store.read(look.source)
        age = self._clock() - stored.asked_at if stored else -1.0
        if stored is None or look.held is None or not 0 <= age < max_age_s:
            return None
        return await self._again(stored, look)

    async def here(self) -> Sequence[Model]:
        """Models on this machine: registered directories, and what was downloaded.

        Of downloads the service tells only after it asked the remote catalog, which takes seconds
        offline; so it is asked only for those that are not remembered.
        """
        control, dialect = self._service.control, self._service.dialect
        local = await (control.local_models() if control else dialect.local_models())
        if dialect.capabilities.cached == "native":
            return local
        look = await self._look()
        if look.held is not None and not look.held:
            return local
        stored = self._store.read(look.source) if self._store else None
        if stored and look.held and {model.id for model in stored.models} >= look.held.keys():
            public: Sequence[Model] = (await self._again(stored, look)).models
        else:
            public = await self._asked_or_nothing()
        return [*local, *(model for model in public if model.cached or model.loaded)]

    async def _ask(self) -> PublicListing:
        control = self._service.control
        if control is not None:
            return await control.public_models()
        return PublicListing(models=tuple(await self._service.dialect.public_models()))

    async def _asked_or_nothing(self) -> Sequence[Model]:
        try:
            return (await self._ask()).models
        except CatalogUnavailable:
            return ()

    def _told(self, told: PublicListing, look: _Look) -> CatalogListing:
        """What the service said, which is kept if it is of now."""
        now = self._clock()
        fetched_at = told.fetched_at or now
        if self._store is not None and told.unreachable is None:
            self._store.write(
                StoredCatalog(
                    source=look.source, fetched_at=fetched_at, asked_at=now, models=told.models
                )
            )
        return CatalogListing(
            models=told.models,
            fetched_at=fetched_at,
            fresh=told.unreachable is None,
            unreachable=told.unreachable,
        )

    async def _again(
        self, stored: StoredCatalog, look: _Look, *, unreachable: str | None = None
    ) -> CatalogListing:
        """What is remembered, with what is cached and loaded now."""
        loaded = await self._loaded()
        held = look.held
        elsewhere = None if held is None else False
        if held is None:
            here = await self._service.dialect.local_models()
            held = {model.id: model.path for model in here if model.cached is not False}
        return CatalogListing(
            models=tuple(_as_of_now(model, held, loaded, elsewhere) for model in stored.models),
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
        return await self._service.dialect.loaded()

    async def _look(self) -> _Look:
        """What the service says of itself, and which downloads lie where it keeps them."""
        service = self._service
        status = await service.dialect.status()
        told = await service.control.host() if service.control else None
        cache = status.cache_dir
        whose = (status.generation, cache or service.endpoint.base_url, told and told.catalog_url)
        source = " ".join(part for part in whose if part)
        if cache is None or not is_loopback(service.endpoint.base_url):
            return _Look(source, None)
        return _Look(source, _held(cache, service.endpoint.base_url, ours=told is not None))


@dataclass(frozen=True, slots=True)
class _Look:
    """Where a catalog is kept, and the downloads that are known: paths by id, or None."""

    source: str
    held: Mapping[str, str | None] | None


def _held(cache: str, base_url: str, *, ours: bool) -> Mapping[str, str | None] | None:
    """The downloads in a cache directory; None where that cannot be told.

    How other generations lay out their cache is not known well enough to say more than: nothing.
    """
    if not ours:
        return None if may_hold_downloads(base_url, cache) else {}
    try:
        return {model: str(path) for model, path in downloaded(Path(cache)).items()}
    except FileNotFoundError:
        return {}
    except OSError:  # not ours to look into: the service may still hold some
        return None


def _as_of_now(
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
