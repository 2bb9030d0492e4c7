"""A service that answers, with the dialect it speaks and what is known of its models."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.errors import (
    CatalogUnavailable,
    FoundryError,
    ModelNotCached,
    ModelNotFound,
    UnsupportedFeature,
)
from foundry_api.flight import SingleFlight
from foundry_api.memory import Keeping, Memory
from foundry_api.neighbours import Nobody
from foundry_api.wire.dialects.base import Wire
from foundry_api.wire.dialects.choose import dialect_of
from foundry_api.wire.dialects.detect import identify
from foundry_api.wire.dialects.names import version_of, without_version
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from foundry_api.messages import Model
    from foundry_api.service.control import ControlClient
    from foundry_api.service.endpoint import Endpoint
    from foundry_api.wire.dialects.base import ModelCommand
    from foundry_api.wire.transport import Transport

    Progress = Callable[[float], object]

__all__ = ["Connection", "find_model"]

IDENTIFY_TIMEOUT_S = 5.0


class Connection:
    """One service, as long as it lives.

    Args:
        endpoint: Where it is and who started it.
        transport: Sends the requests.
        headers: Sent with every request.
        control: The control API of an engine host; None for foreign services.
        others: Who else may load and unload its models.
        keeping: Which models may stay in memory, and who hears of it.

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
        others: Nobody | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.control = control
        self.wire = Wire(transport, endpoint.base_url, headers, _command_of(endpoint))
        self.dialect = dialect_of(endpoint.generation, self.wire)
        self._local: Sequence[Model] = ()
        self._public: Sequence[Model] = ()
        self._meant: dict[str, Model] = {}
        self.memory = Memory(self, others or Nobody(), keeping or Keeping())
        self._listings: SingleFlight[Sequence[Model]] = SingleFlight()

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
        known = find_model(name, (*self._local, *self._public))
        if known and (known.cached is not False or download):
            return known
        self._local = await self._listings.run("local", self.dialect.local_models)
        if local := find_model(name, self._local):
            return local
        catalog = await self.catalog_for(name)
        model = find_model(name, catalog) or await self.dialect.by_alias(name)
        if model is None:
            raise self._not_found(name)
        if model.cached is False and not download:
            raise self._not_cached(name)
        return model

    async def catalog_for(self, name: str) -> Sequence[Model]:
        """The remote catalog, asked on behalf of a model.

        Raises:
            CatalogUnavailable: It could not be reached; what is here instead is told.
        """
        try:
            self._public = await self._listings.run("public", self.public_models)
        except CatalogUnavailable as error:
            self._local = self._local or await self.dialect.local_models()
            raise self._unavailable(name) from error
        return self._public

    async def local_models(self) -> Sequence[Model]:
        """Models on this machine: registered directories, and what was downloaded.

        Of downloads the service tells only after it asked the remote catalog, which takes seconds
        offline; so it is asked only where there may be one.
        """
        if self.control is not None:
            here = list(await self.control.catalog(public=False))
        else:
            here = list(await self.dialect.local_models())
        if self.dialect.capabilities.cached == "native":
            return here
        status = await self.dialect.status()
        if _may_hold_downloads(self.endpoint.base_url, status.cache_dir):
            with contextlib.suppress(CatalogUnavailable):
                known = {model.id for model in here}
                public = [each for each in await self.public_models() if each.id not in known]
                here += [model for model in public if model.cached or model.loaded]
        return here

    async def public_models(self) -> Sequence[Model]:
        """Models of the remote catalog, with alias and size where an engine host can tell."""
        if self.control is not None:
            return await self.control.catalog(public=True)
        return await self.dialect.public_models()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids of the models that are known to be loaded."""
        return tuple(self.memory.loaded)

    def ready(self, name: str) -> Model | None:
        """The model that a name means, if it was resolved before and a call of it may begin."""
        model = self._meant.get(name)
        return model if model is not None and self.memory.has(model.id) else None

    async def make_ready(self, name: str, *, download: bool = False) -> Model:
        """The model that a name means, downloaded if that was asked for, and loaded.

        Raises:
            ModelError: As `resolve`, `download` and `ensure_loaded`.
        """
        model = await self.resolve(name, download=download)
        if model.cached is False:
            model = await self.download(model)
        await self.ensure_loaded(model)
        self._meant[name] = model
        return model

    async def download(self, model: Model, progress: Progress | None = None) -> Model:
        """Download a model's files. Cancelling the call cancels the download.

        Args:
            model: From the remote catalog.
            progress: Called with the percentage done, 0 to 100.

        Raises:
            DownloadFailed: It broke off.
            UnsupportedFeature: The service can't be told to download.
        """
        control = self.control
        steps = control.download(model.id) if control else self.dialect.download(model)
        async with contextlib.aclosing(steps):
            async for percent in steps:
                if progress is not None:
                    progress(percent)
        self.forget(model)
        return await self.resolve(model.id)

    async def check_download(self, name: str) -> None:
        """Refuse what cannot be done at all, before a catalog is asked for it.

        Raises:
            UnsupportedFeature: The service can't be told to download.
        """
        if self.dialect.capabilities.download == "unsupported":
            self.controlled("download models")
        command = self.wire.command
        if command is not None and not await command.available():
            raise UnsupportedFeature(
                "the service has no route to download a model, and no `foundry` here manages it",
                hint=f"Run `foundry model download {name}` on its machine.",
                model=name,
                service=self.endpoint.base_url,
            )

    def controlled(self, what: str) -> ControlClient:
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

    async def replaced(self) -> bool:
        """Whether another service answers at this address by now."""
        base_url, headers = self.endpoint.base_url, self.wire.headers
        try:
            now = await identify(self.transport, base_url, headers, IDENTIFY_TIMEOUT_S)
        except FoundryError:
            return False  # the next request will tell what is there
        known = self.endpoint
        return (now.generation, now.pid) != (known.generation, known.pid or now.pid)

    async def ensure_loaded(self, model: Model) -> None:
        """Load a model unless it is known to be loaded; concurrent loads are one.

        Raises:
            ModelLoadFailed: The engine could not load it.
            MemoryBudgetExceeded: There is no room, and none can be made.
        """
        await self.memory.ensure(model)

    async def in_memory(self) -> frozenset[str]:
        """Ids of the models in memory.

        Of downloads the service tells only after it asked the remote catalog, so it is asked only
        where there may be one.
        """
        ids = await self.dialect.loaded("local")
        status = await self.dialect.status()
        if _may_hold_downloads(self.endpoint.base_url, status.cache_dir):
            ids |= await self.dialect.loaded("public")
        return ids

    async def described(self, model: Model) -> Model:
        """A model on this machine with its size, where that is known."""
        if model.size_mb is not None:
            return model
        known: Sequence[Model] = (*self._local, *self._public)
        if self.control is not None:
            known = (*await self.control.catalog(public=False), *known)
        same = [each for each in known if each.id == model.id]
        return next((each for each in same if each.size_mb is not None), (*same, model)[0])

    def forget(self, model: Model) -> None:
        """Take nothing for granted of a model that was changed or that the service denied."""
        self.memory.loaded.discard(model.id)
        self._meant.clear()
        self._local = ()
        self._public = ()

    def _not_found(self, name: str) -> ModelNotFound:
        return ModelNotFound(
            f"the service knows no model named {name!r}",
            nearest=self._nearest(name),
            model=name,
            service=self.endpoint.base_url,
        )

    def _not_cached(self, name: str) -> ModelNotCached:
        return ModelNotCached(
            f"{name} is known, but its files are not on this machine",
            hint=f"Get it with `foundry-api models pull {name}` or download=True; {self._here()}.",
            model=name,
            service=self.endpoint.base_url,
        )

    def _unavailable(self, name: str) -> CatalogUnavailable:
        nearest = self._nearest(name)
        meant = f"Did you mean {' or '.join(nearest)}? Else go" if nearest else "Go"
        where = "is not on this machine" if self.control else "is not known to the service"
        return CatalogUnavailable(
            f"{name} {where}, and the model catalog could not be reached",
            hint=f"{meant} online once and get it with `foundry-api models pull {name}`"
            f"; {self._here()}.",
            model=name,
            service=self.endpoint.base_url,
        )

    def _nearest(self, name: str) -> list[str]:
        names = {n for m in (*self._local, *self._public) for n in (m.alias, m.id)}
        return difflib.get_close_matches(name.lower(), sorted(names), n=3, cutoff=0.5)

    def _here(self) -> str:
        aliases = sorted({model.alias for model in self._local})
        if not aliases:
            return "no model is on this machine yet"
        works = "; `--model demo` works now" if "demo" in aliases else ""
        return f"on this machine: {', '.join(aliases)}{works}"


def _command_of(endpoint: Endpoint) -> ModelCommand | None:
    """What manages the models of the one generation that has no routes for it."""
    if endpoint.generation != "cli-0.10":
        return None
    from foundry_api.service.foundry_models import FoundryModels  # noqa: PLC0415 - for it alone

    return FoundryModels(endpoint.base_url)


def find_model(name: str, models: Iterable[Model]) -> Model | None:
    """The model that a name means: an id first, then an id without version, then an alias.

    Of several versions the highest is meant, and of several variants the first that is cached,
    else the first: catalogs list the best device first.
    """
    wanted = name.strip().lower()
    models = tuple(models)
    if exact := [model for model in models if model.id.lower() == wanted]:
        return exact[0]
    if versions := [model for model in models if without_version(model.id).lower() == wanted]:
        return max(versions, key=lambda model: version_of(model.id))
    if unversioned := [model for model in models if model.id.lower() == without_version(wanted)]:
        return unversioned[0]  # 1.x lists its ids without their version
    variants = [model for model in models if model.alias.lower() == wanted]
    cached = [model for model in variants if model.cached]
    return next(iter(cached or variants), None)


def _may_hold_downloads(base_url: str, cache_dir: str | None) -> bool:
    if cache_dir is None or not is_loopback(base_url):
        return True
    try:
        return any(entry.is_dir() for entry in Path(cache_dir).iterdir())
    except FileNotFoundError:
        return False
    except OSError:  # not ours to look into: the service may still hold some
        return True
