"""A connection to one running service: its dialect and its models."""

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
    ModelError,
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
    """One service from its start to its end; after a restart there is a new connection.

    `control` is the control API of our own engine host, None for other services. `coordination`
    has the other clients that use its models. `aliases` has further names of its models, in lower
    case, each with the name that the service knows.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        headers: Mapping[str, str],
        control: ControlClient | None,
        *,
        store: CatalogStore | None = None,
        coordination: NoCoordination | None = None,
        residency: ResidencyContext | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.control = control
        command: ModelCommand | None = None
        if endpoint.service_generation == "cli-0.10":
            # Only this generation has no routes for models; its command line manages them.
            from foundry_api.engine.foundry_command import FoundryModels  # noqa: PLC0415 - rare

            command = FoundryModels(endpoint.base_url)
        self.service_client = ServiceClient(transport, endpoint.base_url, headers, command)
        self.dialect = get_dialect(endpoint.service_generation, self.service_client)
        self.catalog = Catalog(self, store)
        self.embedding_support: dict[str, bool] = {}  # by model id, as far as it is known
        self.stored_responses = StoredResponses(self.service_client, self.dialect)
        # The models of the last listings: of this machine, and of the remote catalog.
        self._local: Sequence[Model] = ()
        self._public: Sequence[Model] = ()
        self.downloads = 0  # in progress
        self.resolved: dict[str, Model] = {}  # by the name that the caller used
        self._aliases = aliases or {}
        self.models = ModelManager(
            self, coordination or NoCoordination(), residency or ResidencyContext()
        )
        # Concurrent callers share one request for each listing.
        self._local_flight: SingleFlight[Sequence[Model]] = SingleFlight()
        self._catalog_flight: SingleFlight[CatalogListing] = SingleFlight()

    @property
    def base_url(self) -> str:
        return self.endpoint.base_url

    async def resolve(self, name: str, *, download: bool = False) -> Model:
        """Return the model with this alias, id, or id without version. Case is ignored.

        Raises ModelNotCached if its files are not on this machine, unless `download` is set.
        """
        target = self._aliases.get(name.strip().lower())
        if target is None:
            return await self._resolve(name, download=download)
        try:
            return await self._resolve(target, download=download)
        except ModelError as error:
            error.model = name  # the only name that the caller knows
            raise

    async def _resolve(self, name: str, *, download: bool) -> Model:
        known = match_model(name, (*self._local, *self._public))
        if known and (known.cached is not False or download):
            return known
        self._local = await self._local_flight.run("local", self.dialect.list_local_models)
        if local := match_model(name, self._local) or await self._register_built_in(name):
            return local
        # Last, because the remote catalog takes seconds when it can't be reached.
        catalog = await self.fetch_catalog(name)
        model = match_model(name, catalog) or await self.dialect.find_by_alias(name)
        if model is None:
            raise self.make_not_found_error(name)
        if model.cached is False and not download:
            size = f" ({model.size_mb} MB)" if model.size_mb else ""
            raise ModelNotCached(
                f"{name} is known, but its files{size} are not on this machine",
                hint=f"Get it with `foundry-api models pull {name}` or download=True; "
                f"{self._list_available()}.",
                model=name,
                service=self.endpoint.base_url,
            )
        return model

    async def _register_built_in(self, name: str) -> Model | None:
        """Register a model of this package again that a user unregistered."""
        source = _find_built_in(name)
        if source is None or self.control is None:
            return None
        model = await self.control.register(source.path, source.alias)
        self._local = await self.dialect.list_local_models()
        return model

    async def fetch_catalog(self, name: str) -> Sequence[Model]:
        """Return the remote catalog, refreshed if the stored copy lacks the model."""
        try:
            listing = await self.catalog.get_cached_listing()
            if listing is None or match_model(name, listing.models) is None:
                listing = await self._catalog_flight.run(
                    "catalog", partial(self.catalog.get_listing, refresh=True)
                )
        except CatalogUnavailable as error:
            self._local = self._local or await self.dialect.list_local_models()
            raise self._make_unavailable_error(name) from error
        self._public = listing.models
        if listing.unreachable is not None and match_model(name, self._public) is None:
            raise self._make_unavailable_error(name)
        return self._public

    async def list_local_models(self) -> Sequence[Model]:
        """Return the registered and the downloaded models."""
        return await self.catalog.list_local_models()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids of the models that are known to be loaded."""
        return tuple(self.models.loaded)

    async def resolve_cached(self, name: str, *, download: bool = False) -> Model:
        """As `resolve`, with the result cached until a model is changed."""
        model = self.resolved.get(name)
        if model is None:
            model = self.resolved[name] = await self.resolve(name, download=download)
        return model

    async def make_ready(self, name: str, *, download: bool = False) -> Model:
        """Resolve a name, download the model if necessary, and load it."""
        model = await self.resolve(name, download=download)
        if model.cached is False:
            model = await self.download(model)
        if self.dialect.manages_calls:
            self.models.loaded.add(model.id)  # the service loads it for the call
        else:
            await self.ensure_loaded(model)
        self.resolved[name] = model
        return model

    async def download(
        self, model: Model, progress: Progress | None = None, *, stall_s: float = STALL_S
    ) -> Model:
        """Download a model and return it as the service lists it. Cancelling stops the download.

        `progress` receives the percentage. The download fails after `stall_s` without data.
        """
        control = self.control
        steps = control.download(model.id) if control else self.dialect.download(model)
        alive = with_stall_timeout(steps, model=model.id, stall_s=stall_s)
        self.downloads += 1
        try:
            async with aclosing(alive):
                async for percent in alive:
                    if progress is not None:
                        progress(percent)
        finally:
            self.downloads -= 1
        self.forget(model)
        # A download counts as complete only if the service then lists the model.
        known = await self.dialect.list_local_models()
        if match_model(model.id, known) is None:
            known = (await self.catalog.get_listing(refresh=True)).models
        found = match_model(model.id, known)
        if found is None or not found.cached:
            raise DownloadFailed(
                "the download ended, but the service does not have the model's files",
                hint="Pull it again: the download resumes where it stopped.",
                model=model.id,
                service=self.endpoint.base_url,
            )
        return found

    async def check_download(self, name: str) -> None:
        """Raise UnsupportedFeature if the service can't download models."""
        if self.dialect.capabilities.download == "unsupported":
            self.require_control("download models")
        command = self.service_client.command
        if command is not None and not await command.is_available():
            raise UnsupportedFeature(
                "the service has no route to download a model, and no `foundry` here manages it",
                hint=f"Run `foundry model download {name}` on its machine.",
                model=name,
                service=self.endpoint.base_url,
            )

    def require_control(self, what: str) -> ControlClient:
        """Return the control API, or raise UnsupportedFeature that there is no route to `what`."""
        if self.control is None:
            hint = "Use its own command line (`foundry model …`), or service='embedded'."
            if self.dialect.manages_calls:
                hint = "Use `foundry-api models` on the machine of the gateway."
            raise UnsupportedFeature(
                f"the service at {self.endpoint.base_url} has no route to {what}", hint=hint
            )
        return self.control

    async def is_replaced(self) -> bool:
        """Whether another service answers at this address now."""
        known = self.endpoint
        try:
            found = await detect_service(
                self.transport,
                known.base_url,
                self.service_client.headers,
                KNOWN_TIMEOUT_S,
                protocol="openai" if known.service_generation == "openai" else "foundry",
            )
        except FoundryError:
            return False  # unknown; the next request fails if the service is gone
        if known.pid and found.pid != known.pid:
            return True
        return found.service_generation != known.service_generation

    async def ensure_loaded(self, model: Model) -> None:
        """Load a model unless it is loaded. Concurrent calls share one load."""
        if self.dialect.manages_calls:
            self.models.loaded.discard(model.id)  # a call does not prove that it stays in memory
        await self.models.load(model)

    async def list_loaded_ids(self, status: ServiceStatus | None = None) -> frozenset[str]:
        """Return the ids of the models in memory. `status` saves a request for it."""
        if self.dialect.manages_calls:
            return await self.dialect.get_loaded_ids()
        ids = await self.dialect.get_loaded_ids("local")
        status = status or await self.dialect.get_status()
        # 2.x lists loaded downloads only after it has queried the remote catalog, which takes 4 s
        # offline the first time (measured on 2.2.1). So don't ask if there can be no downloads.
        is_cheap = self.dialect.capabilities.cached == "native"
        if is_cheap or may_hold_downloads(self.endpoint.base_url, status.cache_dir):
            ids |= await self.dialect.get_loaded_ids("public")
        return ids

    async def measure_models_mb(self) -> float | None:
        """Return the memory that the models use in our own engine host."""
        if self.control is None:
            return None
        return (await self.control.get_memory()).models_bytes / 2**20

    async def describe(self, model: Model) -> Model:
        """Return the model with its size, if the size is known."""
        if model.size_mb is not None:
            return model
        known: Sequence[Model] = (*self._local, *self._public)
        if self.control is not None:
            known = (*await self.control.list_local_models(), *known)
        same = [candidate for candidate in known if candidate.id == model.id]
        sized = [candidate for candidate in same if candidate.size_mb is not None]
        return (*sized, *same, model)[0]

    def forget(self, model: Model) -> None:
        """Drop the cached state of a model that was changed or that the service does not know."""
        self.models.loaded.discard(model.id)
        self.embedding_support.pop(model.id, None)
        self.resolved.clear()
        self._local = ()
        self._public = ()

    def make_not_found_error(self, name: str) -> ModelNotFound:
        """Return the error for an unknown name, with similar names."""
        is_gateway = self.endpoint.service_generation == "gateway"
        return ModelNotFound(
            f"the service knows no model named {name!r}"
            + (" that this key may use" if is_gateway else ""),
            hint=self._list_of_gateway() if is_gateway else self._get_built_in_hint(name),
            nearest=self._find_similar_names(name),
            model=name,
            service=self.endpoint.base_url,
        )

    def _make_unavailable_error(self, name: str) -> CatalogUnavailable:
        if self.endpoint.service_generation == "gateway":
            return CatalogUnavailable(
                f"the gateway has no model {name!r} that this key may use, and does not reach the "
                "model catalog",
                hint=self._list_of_gateway(),
                model=name,
                service=self.endpoint.base_url,
            )
        nearest = self._find_similar_names(name)
        suggestion = (
            f"Did you mean {' or '.join(nearest)}? If not, connect" if nearest else "Connect"
        )
        where = "is not on this machine" if self.control else "is not known to the service"
        # An engine fetches the catalog when it is first needed, and then only after hours. A shared
        # engine outlives this process, so it must be stopped to fetch the catalog again.
        is_shared = self.control is not None and self.endpoint.origin == "shared"
        restart = "`foundry-api down` and " if is_shared else ""
        return CatalogUnavailable(
            f"{name} {where}, and the model catalog could not be reached",
            hint=self._get_built_in_hint(name)
            or f"{suggestion} to the network, then run {restart}`foundry-api models pull {name}`; "
            f"{self._list_available()}.",
            model=name,
            service=self.endpoint.base_url,
        )

    def _get_built_in_hint(self, name: str) -> str | None:
        """Return how to get a model that this package ships, which no catalog lists."""
        if _find_built_in(name) is None:
            return None
        if self.control is not None:
            return f"It comes with this package: `foundry-api models load {name}` brings it back."
        return (
            "Only the engine of this package has it, and this is another service: use "
            "service='embedded', or --service embedded."
        )

    def _list_of_gateway(self) -> str:
        aliases = sorted({model.alias for model in self._local})
        names = ", ".join(aliases) or "no model"
        return f"It has {names} for this key; ask its operator for others."

    def _find_similar_names(self, name: str) -> list[str]:
        models = (*self._local, *self._public)
        names = {name for model in models for name in (model.alias, model.id)}
        return difflib.get_close_matches(name.lower(), sorted(names), n=3, cutoff=0.5)

    def _list_available(self) -> str:
        aliases = sorted({model.alias for model in self._local})
        if not aliases:
            return "no model is on this machine yet"
        works = "; `--model demo` works now" if "demo" in aliases else ""
        return f"on this machine: {', '.join(aliases)}{works}"


def _find_built_in(name: str) -> ModelSource | None:
    """Return the model of this package with this name, with or without version."""
    from foundry_api.engine.process import get_demo_models  # noqa: PLC0415 - most calls need none

    alias = strip_version(name.strip().lower())
    return next((source for source in get_demo_models() if source.alias.lower() == alias), None)


def match_model(name: str, models: Iterable[Model]) -> Model | None:
    """Return the model with this id, else id without version, else alias. Case is ignored.

    Of several versions the highest is returned, of several variants of an alias the first that is
    cached, else the first.
    """
    requested = name.strip().lower()
    models = tuple(models)
    if exact := [model for model in models if model.id.lower() == requested]:
        return exact[0]
    if versions := [model for model in models if strip_version(model.id).lower() == requested]:
        return max(versions, key=lambda model: parse_version(model.id))
    if unversioned := [model for model in models if model.id.lower() == strip_version(requested)]:
        return unversioned[0]  # 1.x lists its ids without their version
    variants = _match_alias(requested, models)  # catalogs list the best device first
    cached = [model for model in variants if model.cached]
    return next(iter(cached or variants), None)


def find_variants(name: str, models: Iterable[Model]) -> list[Model]:
    """Return all the variants of an alias, or the model with the id."""
    models = tuple(models)
    if variants := _match_alias(name.strip().lower(), models):
        return variants
    found = match_model(name, models)
    return [found] if found else []


def _match_alias(alias: str, models: Iterable[Model]) -> list[Model]:
    return [model for model in models if model.alias.lower() == alias]
