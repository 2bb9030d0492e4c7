"""A service that answers, with the dialect it speaks and what is known of its models."""

from __future__ import annotations

import contextlib
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.errors import (
    CatalogUnavailable,
    ModelNotCached,
    ModelNotFound,
    UnsupportedFeature,
)
from foundry_api.flight import SingleFlight
from foundry_api.wire.dialects.base import Wire
from foundry_api.wire.dialects.sdk2 import Sdk21Dialect
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from foundry_api.messages import Model
    from foundry_api.service.control import ControlClient
    from foundry_api.service.endpoint import Endpoint
    from foundry_api.wire.dialects.base import Dialect
    from foundry_api.wire.transport import Transport

    Progress = Callable[[float], object]

__all__ = ["Connection", "find_model", "may_hold_downloads"]


class Connection:
    """One service, as long as it lives.

    Args:
        endpoint: Where it is and who started it.
        transport: Sends the requests.
        headers: Sent with every request.
        control: The control API of an engine host; None for foreign services.

    Raises:
        UnsupportedFeature: There is no dialect for the service's generation.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        headers: Mapping[str, str],
        control: ControlClient | None,
    ) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.control = control
        self.wire = Wire(transport, endpoint.base_url, headers)
        self.dialect = _dialect_of(endpoint, self.wire)
        self._local: Sequence[Model] = ()
        self._public: Sequence[Model] = ()
        self._meant: dict[str, Model] = {}
        self._loaded: set[str] = set()
        self._loads: SingleFlight[None] = SingleFlight()
        self._listings: SingleFlight[Sequence[Model]] = SingleFlight()

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
        model = find_model(name, await self.catalog_for(name))
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
        status = await self.dialect.status()
        if may_hold_downloads(self.endpoint.base_url, status.cache_dir):
            with contextlib.suppress(CatalogUnavailable):
                public = await self.public_models()
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
        return tuple(self._loaded)

    def ready(self, name: str) -> Model | None:
        """The model that a name means, if it was resolved before and is known to be loaded."""
        model = self._meant.get(name)
        return model if model is not None and model.id in self._loaded else None

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
            UnsupportedFeature: The service is not an engine host of this package.
        """
        async for percent in self.controlled("download models").download(model.id):
            if progress is not None:
                progress(percent)
        self.forget(model)
        return await self.resolve(model.id)

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

    async def ensure_loaded(self, model: Model) -> None:
        """Load a model unless it is known to be loaded; concurrent loads are one.

        Raises:
            ModelLoadFailed: The engine could not load it.
        """
        if model.id not in self._loaded:
            await self._loads.run(model.id, lambda: self._load(model))

    async def unload(self, model: Model) -> None:
        """Take a model out of memory."""
        self._loaded.discard(model.id)
        await self.dialect.unload(model)

    def forget(self, model: Model) -> None:
        """Take nothing for granted of a model that was changed or that the service denied."""
        self._loaded.discard(model.id)
        self._meant.clear()
        self._local = ()
        self._public = ()

    async def _load(self, model: Model) -> None:
        await self.dialect.load(model)
        self._loaded.add(model.id)

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
        return CatalogUnavailable(
            f"{name} is not on this machine, and the model catalog could not be reached",
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


def find_model(name: str, models: Iterable[Model]) -> Model | None:
    """The model that a name means: an id first, then an id without version, then an alias.

    Of several versions the highest is meant, and of several variants the first that is cached,
    else the first: catalogs list the best device first.
    """
    wanted = name.strip().lower()
    models = tuple(models)
    if exact := [model for model in models if model.id.lower() == wanted]:
        return exact[0]
    if versions := [model for model in models if _name(model.id).lower() == wanted]:
        return max(versions, key=lambda model: _version(model.id))
    variants = [model for model in models if model.alias.lower() == wanted]
    cached = [model for model in variants if model.cached]
    return next(iter(cached or variants), None)


_VERSION = re.compile(r":([0-9]{1,9})$")


def _name(model_id: str) -> str:
    return _VERSION.sub("", model_id)


def _version(model_id: str) -> int:
    found = _VERSION.search(model_id)
    return int(found[1]) if found else 0


def may_hold_downloads(base_url: str, cache_dir: str | None) -> bool:
    """Whether a service may have downloaded models, of which only slow routes tell."""
    if cache_dir is None or not is_loopback(base_url):
        return True
    try:
        return any(entry.is_dir() for entry in Path(cache_dir).iterdir())
    except FileNotFoundError:
        return False
    except OSError:  # not ours to look into: the service may still hold some
        return True


def _dialect_of(endpoint: Endpoint, wire: Wire) -> Dialect:
    if endpoint.generation == "sdk-2.1":
        return Sdk21Dialect(wire)
    raise UnsupportedFeature(
        f"the service is of generation {endpoint.generation}, which has no dialect yet",
        hint="Use service='embedded', or a service of Foundry Local SDK 2.1 or later.",
    ).located(service=endpoint.base_url)
