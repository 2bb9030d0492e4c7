"""A service that answers, with the dialect it speaks and what is known of its models."""

from __future__ import annotations

import difflib
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from foundry_api.core.catalog import Catalog
from foundry_api.core.downloads import STALL_S, with_stall_timeout
from foundry_api.core.residency.coordination import NoCoordination
from foundry_api.core.residency.manager import ModelManager, ResidencyContext
from foundry_api.core.residency.stored_responses import StoredResponses
from foundry_api.engine.discovery import KNOWN_TIMEOUT_S
from foundry_api.engine.models.download_cache import may_hold_downloads
from foundry_api.resilience.single_flight import SingleFlight
from foundry_api.types.errors import (
    CatalogUnavailable,
    DownloadFailed,
    FoundryError,
    ModelNotCached,
    ModelNotFound,
    UnsupportedFeature,
)
from foundry_api.wire.dialects.base import ServiceClient
from foundry_api.wire.dialects.detect import detect_service, get_dialect
from foundry_api.wire.dialects.model_ids import parse_version, strip_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from foundry_api.core.catalog import CatalogListing, CatalogStore
    from foundry_api.engine.control import ControlClient
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.engine.handshake import ModelSource
    from foundry_api.types.models import Model
    from foundry_api.wire.dialects.base import ModelCommand, ServiceStatus
    from foundry_api.wire.transport import Transport

    Progress = Callable[[float], object]

__all__ = ["Connection", "find_variants", "match_model"]


class Connection:
    """One service, as long as it lives.

    Args:
        endpoint: Where it is and who started it.
        transport: Sends the requests.
        headers: Sent with every request.
        control: The control API of an engine host; None for foreign services.
        store: Keeps the last good catalog; None keeps nothing.
        others: Who else may load and unload its models.
        keeping: Which models may stay in memory, and who hears of it.

    Attributes:
        catalog: What could be downloaded, and what was.
        resolved: The models that names were resolved to, until something changes.
        embedding_support: Which models make embeddings, as far as that was found out, by id.
        stored_responses: The responses that this client had it store.

    Raises:
        UnsupportedFeature: There is no dialect for the service's generation.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        headers: Mapping[str, str],
        control: ControlClient | None,
        *,
        store: CatalogStore | None = None,
        others: NoCoordination | None = None,
        keeping: ResidencyContext | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.control = control
        self.wire = ServiceClient(transport, endpoint.base_url, headers, _command_of(endpoint))
        self.dialect = get_dialect(endpoint.service_generation, self.wire)
        self.catalog = Catalog(self, store)
        self.embedding_support: dict[str, bool] = {}
        self.stored_responses = StoredResponses(self.wire, self.dialect)
        self._local: Sequence[Model] = ()
        self._public: Sequence[Model] = ()
        self.resolved: dict[str, Model] = {}
        self.memory = ModelManager(self, others or NoCoordination(), keeping or ResidencyContext())
        self._listings: SingleFlight[Sequence[Model]] = SingleFlight()
        self._catalog_flight: SingleFlight[CatalogListing] = SingleFlight()

    @property
    def base_url(self) -> str:
        """Its address."""
        return self.endpoint.base_url

    async def resolve(self, name: str, *, download: bool = False) -> Model:
        """The model that a caller means by an alias, an id, or an id without version, in any case.

        The remote catalog is asked only for a name that is not known on this machine.

        Args:
            name: What the caller said.
            download: Accept a model whose files are not here yet.

        Raises:
            ModelNotFound: No model has that name; the nearest names are told.
            ModelNotCached: Its files are not on this machine.
            CatalogUnavailable: It is not on this machine, and the catalog could not be reached.
        """
        known = match_model(name, (*self._local, *self._public))
        if known and (known.cached is not False or download):
            return known
        self._local = await self._listings.run("local", self.dialect.list_local_models)
        if local := match_model(name, self._local) or await self._registered_again(name):
            return local
        catalog = await self.catalog_for(name)
        model = match_model(name, catalog) or await self.dialect.find_by_alias(name)
        if model is None:
            raise self.not_found(name)
        if model.cached is False and not download:
            raise self._not_cached(name, model)
        return model

    async def _registered_again(self, name: str) -> Model | None:
        """A model of this package that somebody unregistered, where the engine is one of ours."""
        source = _built_in(name)
        if source is None or self.control is None:
            return None
        model = await self.control.register(source.path, source.alias)
        self._local = await self.dialect.list_local_models()
        return model

    async def catalog_for(self, name: str) -> Sequence[Model]:
        """The remote catalog, asked on behalf of a model that is not in what is remembered of it.

        Raises:
            CatalogUnavailable: It could not be reached, and the last good one does not have the
                model; what is here instead is told.
        """
        try:
            listing = await self._catalog_with(name)
        except CatalogUnavailable as error:
            self._local = self._local or await self.dialect.list_local_models()
            raise self._unavailable(name) from error
        self._public = listing.models
        if listing.unreachable is not None and match_model(name, self._public) is None:
            raise self._unavailable(name)
        return self._public

    async def _catalog_with(self, name: str) -> CatalogListing:
        known = await self.catalog.cached_listing()
        if known is not None and match_model(name, known.models) is not None:
            return known
        return await self._catalog_flight.run(
            "catalog", partial(self.catalog.listing, refresh=True)
        )

    async def local_models(self) -> Sequence[Model]:
        """Models on this machine: registered directories, and what was downloaded."""
        return await self.catalog.local_models()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids of the models that are known to be loaded."""
        return tuple(self.memory.loaded)

    async def resolve_cached(self, name: str, *, download: bool = False) -> Model:
        """As `resolve`, but remembered until something changes: nothing is asked twice."""
        model = self.resolved.get(name)
        if model is None:
            model = self.resolved[name] = await self.resolve(name, download=download)
        return model

    async def make_ready(self, name: str, *, download: bool = False) -> Model:
        """The model that a name means, downloaded if that was asked for, and loaded.

        Raises:
            ModelError: As `resolve`, `download` and `ensure_loaded`.
        """
        model = await self.resolve(name, download=download)
        if model.cached is False:
            model = await self.download(model)
        await self.ensure_loaded(model)
        self.resolved[name] = model
        return model

    async def download(
        self, model: Model, progress: Progress | None = None, *, stall_s: float = STALL_S
    ) -> Model:
        """Download a model's files. Cancelling the call cancels the download.

        Args:
            model: From the remote catalog.
            progress: Called with the percentage done, 0 to 100; with the same again while only
                parts of the next step come.
            stall_s: Seconds without anything after which it counts as failed.

        Raises:
            DownloadFailed: It broke off or stood still, or the service does not have the model
                after it.
            UnsupportedFeature: The service can't be told to download.
        """
        control = self.control
        steps = control.download(model.id) if control else self.dialect.download(model)
        async with aclosing(with_stall_timeout(steps, model=model.id, stall_s=stall_s)) as alive:
            async for percent in alive:
                if progress is not None:
                    progress(percent)
        self.forget(model)
        return await self._downloaded(model)

    async def check_download(self, name: str) -> None:
        """Refuse what cannot be done at all, before a catalog is asked for it.

        Raises:
            UnsupportedFeature: The service can't be told to download.
        """
        if self.dialect.capabilities.download == "unsupported":
            self.require_control("download models")
        command = self.wire.command
        if command is not None and not await command.is_available():
            raise UnsupportedFeature(
                "the service has no route to download a model, and no `foundry` here manages it",
                hint=f"Run `foundry model download {name}` on its machine.",
                model=name,
                service=self.endpoint.base_url,
            )

    def require_control(self, what: str) -> ControlClient:
        """The control API.

        Args:
            what: What it is wanted for.

        Raises:
            UnsupportedFeature: The service is not an engine host of this package.
        """
        if self.control is None:
            raise UnsupportedFeature(
                f"the service at {self.endpoint.base_url} has no route to {what}",
                hint="Use its own command line (`foundry model …`), or service='embedded'.",
            )
        return self.control

    async def is_replaced(self) -> bool:
        """Whether another service answers at this address by now."""
        base_url, headers = self.endpoint.base_url, self.wire.headers
        try:
            now = await detect_service(self.transport, base_url, headers, KNOWN_TIMEOUT_S)
        except FoundryError:
            return False  # the next request will tell what is there
        known = self.endpoint
        return (now.service_generation, now.pid) != (known.service_generation, known.pid or now.pid)

    async def ensure_loaded(self, model: Model) -> None:
        """Load a model unless it is known to be loaded; concurrent loads are one.

        Raises:
            ModelLoadFailed: The engine could not load it.
            MemoryBudgetExceeded: There is no room, and none can be made.
        """
        await self.memory.load(model)

    async def loaded_model_ids(self, status: ServiceStatus | None = None) -> frozenset[str]:
        """Ids of the models in memory.

        Of downloads 2.x tells only after it asked the remote catalog, which takes it 4 s offline,
        the first time (probed on 2.2.1); so it is asked only where there may be some.

        Args:
            status: What the service said of itself, where that is known; None asks.

        Raises:
            FoundryError: The service does not tell.
        """
        ids = await self.dialect.get_loaded_ids("local")
        status = status or await self.dialect.get_status()
        cheap = self.dialect.capabilities.cached == "native"
        if cheap or may_hold_downloads(self.endpoint.base_url, status.cache_dir):
            ids |= await self.dialect.get_loaded_ids("public")
        return ids

    async def models_memory_mb(self) -> float | None:
        """Memory that the models take in the engine; None where only their files can be counted.

        Raises:
            FoundryError: The engine host does not tell.
        """
        if self.control is None:
            return None
        return (await self.control.get_memory()).models_bytes / 2**20

    async def describe(self, model: Model) -> Model:
        """A model on this machine with its size, where that is known."""
        if model.size_mb is not None:
            return model
        known: Sequence[Model] = (*self._local, *self._public)
        if self.control is not None:
            known = (*await self.control.list_local_models(), *known)
        same = [each for each in known if each.id == model.id]
        return next((each for each in same if each.size_mb is not None), (*same, model)[0])

    def forget(self, model: Model) -> None:
        """Take nothing for granted of a model that was changed or that the service denied."""
        self.memory.loaded.discard(model.id)
        self.embedding_support.pop(model.id, None)
        self.resolved.clear()
        self._local = ()
        self._public = ()

    async def _downloaded(self, model: Model) -> Model:
        """The model as the service has it after a download."""
        known = await self.dialect.list_local_models()
        if match_model(model.id, known) is None:
            known = (await self.catalog.listing(refresh=True)).models
        found = match_model(model.id, known)
        if found is None or not found.cached:
            raise DownloadFailed(
                "the download ended, but the service does not have the model's files",
                hint="Pull it again: that goes on where it stopped.",
                model=model.id,
                service=self.endpoint.base_url,
            )
        return found

    def not_found(self, name: str) -> ModelNotFound:
        """The error for a name that no model has, with the nearest that are known."""
        return ModelNotFound(
            f"the service knows no model named {name!r}",
            hint=self._of_this_package(name),
            nearest=self._suggestions(name),
            model=name,
            service=self.endpoint.base_url,
        )

    def _not_cached(self, name: str, model: Model) -> ModelNotCached:
        size = f" ({model.size_mb} MB)" if model.size_mb else ""
        return ModelNotCached(
            f"{name} is known, but its files{size} are not on this machine",
            hint=f"Get it with `foundry-api models pull {name}` or download=True; "
            f"{self._available_hint()}.",
            model=name,
            service=self.endpoint.base_url,
        )

    def _unavailable(self, name: str) -> CatalogUnavailable:
        nearest = self._suggestions(name)
        meant = f"Did you mean {' or '.join(nearest)}? Else go" if nearest else "Go"
        where = "is not on this machine" if self.control else "is not known to the service"
        # An engine asks the catalog when it is first needed, and then only after hours.
        shared = self.control is not None and self.endpoint.origin == "shared"
        again = ", after `foundry-api down` if you are online again" if shared else ""
        return CatalogUnavailable(
            f"{name} {where}, and the model catalog could not be reached",
            hint=self._of_this_package(name)
            or f"{meant} online once and get it with `foundry-api models pull {name}`"
            f"{again}; {self._available_hint()}.",
            model=name,
            service=self.endpoint.base_url,
        )

    def _of_this_package(self, name: str) -> str | None:
        """How to get a model of this package, which no catalog has."""
        if _built_in(name) is None:
            return None
        if self.control is not None:
            return f"It comes with this package: `foundry-api models load {name}` brings it back."
        return (
            "It comes with the engine of this package, and this service is another: use "
            "service='embedded', or --service embedded."
        )

    def _suggestions(self, name: str) -> list[str]:
        names = {n for m in (*self._local, *self._public) for n in (m.alias, m.id)}
        return difflib.get_close_matches(name.lower(), sorted(names), n=3, cutoff=0.5)

    def _available_hint(self) -> str:
        aliases = sorted({model.alias for model in self._local})
        if not aliases:
            return "no model is on this machine yet"
        works = "; `--model demo` works now" if "demo" in aliases else ""
        return f"on this machine: {', '.join(aliases)}{works}"


def _built_in(name: str) -> ModelSource | None:
    """The model of this package that a name means, with or without a version."""
    from foundry_api.engine.process import get_demo_models  # noqa: PLC0415 - most calls need none

    alias = strip_version(name.strip().lower())
    return next((source for source in get_demo_models() if source.alias.lower() == alias), None)


def _command_of(endpoint: Endpoint) -> ModelCommand | None:
    """What manages the models of the one generation that has no routes for it."""
    if endpoint.service_generation != "cli-0.10":
        return None
    from foundry_api.engine.foundry_command import FoundryModels  # noqa: PLC0415 - for it alone

    return FoundryModels(endpoint.base_url)


def match_model(name: str, models: Iterable[Model]) -> Model | None:
    """The model that a name means: an id first, then an id without version, then an alias.

    Of several versions the highest is meant, and of several variants the first that is cached,
    else the first: catalogs list the best device first.
    """
    requested = name.strip().lower()
    models = tuple(models)
    if exact := [model for model in models if model.id.lower() == requested]:
        return exact[0]
    if versions := [model for model in models if strip_version(model.id).lower() == requested]:
        return max(versions, key=lambda model: parse_version(model.id))
    if unversioned := [model for model in models if model.id.lower() == strip_version(requested)]:
        return unversioned[0]  # 1.x lists its ids without their version
    variants = _match_alias(requested, models)
    cached = [model for model in variants if model.cached]
    return next(iter(cached or variants), None)


def find_variants(name: str, models: Iterable[Model]) -> list[Model]:
    """All the variants of an alias, or the one that an id means."""
    models = tuple(models)
    if variants := _match_alias(name.strip().lower(), models):
        return variants
    found = match_model(name, models)
    return [found] if found else []


def _match_alias(alias: str, models: Iterable[Model]) -> list[Model]:
    return [model for model in models if model.alias.lower() == alias]
