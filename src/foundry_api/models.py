"""`client.models`: what models there are, and getting them in and out of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.catalog import MAX_AGE_S
from foundry_api.connection import find_model, find_variants
from foundry_api.downloads import STALL_S, DownloadMeter
from foundry_api.errors import CatalogUnavailable, InvalidRequest, ModelInUse, ModelNotFound
from foundry_api.resilience.deadline import bounded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from foundry_api.catalog import CatalogListing
    from foundry_api.connection import Connection
    from foundry_api.downloads import DownloadProgress
    from foundry_api.messages import Model
    from foundry_api.service.control import ControlClient

    Progress = Callable[[DownloadProgress], object]
    Connect = Callable[[], Awaitable[Connection]]
    Route = Callable[..., Awaitable[tuple[Connection, Model]]]

__all__ = ["Models"]


class Models:
    """The models of the service that the client talks to.

    Every name may be an alias, an id, or an id without its version, in any case.
    """

    def __init__(self, connect: Connect, route: Route) -> None:
        self._connect = connect
        self._route = route

    @bounded
    async def list(self, *, catalog: bool = False) -> Sequence[Model]:
        """Models on this machine, and on request those that could be downloaded.

        Args:
            catalog: Those of Microsoft's catalog too; see `catalog`.

        Raises:
            CatalogUnavailable: The catalog was asked for, cannot be reached, and never was.
            ServiceError: The service does not answer.
        """
        connection = await self._connect()
        local = await connection.local_models()
        if not catalog:
            return local
        known = {model.id for model in local}
        listing = await connection.catalog.listing()
        return [*local, *(model for model in listing.models if model.id not in known)]

    @bounded
    async def catalog(
        self, *, refresh: bool = False, max_age_s: float = MAX_AGE_S
    ) -> CatalogListing:
        """What could be downloaded, and how old that knowledge is.

        A catalog that cannot be reached, which takes 4 s to find out, is answered with the last
        one that could, `unreachable` saying why. One that is reached and empty has no models.

        Args:
            refresh: Ask the service even if it was asked lately. An engine of SDK 2.x itself asks
                the catalog when it starts and then every few hours, so that a service that
                started offline knows nothing new until it is restarted.
            max_age_s: Seconds for which the answer of the service holds.

        Raises:
            CatalogUnavailable: It cannot be reached, and never was.
            ServiceError: The service does not answer.
        """
        if max_age_s < 0:
            raise InvalidRequest(f"max_age_s is {max_age_s:g}, below 0", field="max_age_s")
        connection = await self._connect()
        return await connection.catalog.listing(refresh=refresh, max_age_s=max_age_s)

    @bounded
    async def show(self, name: str) -> Sequence[Model]:
        """Every variant that a name means, those on this machine first.

        Args:
            name: An alias means all its variants, an id that one. The catalog is not asked for a
                registered directory.

        Raises:
            ModelNotFound: No model has that name.
            CatalogUnavailable: It is not on this machine, and the catalog cannot be reached.
            ServiceError: The service does not answer.
        """
        connection = await self._connect()
        here = find_variants(name, await connection.local_models())
        if any(model.catalog == "local" for model in here):
            return here
        try:
            known = await connection.catalog_for(name)
        except CatalogUnavailable:
            if not here:
                raise
            known = here
        found = find_variants(name, known)
        if not found:
            raise connection.not_found(name)
        return sorted(found, key=lambda model: not model.cached)

    async def cached(self) -> Sequence[Model]:
        """Models whose files are on this machine."""
        return [model for model in await self.list() if model.cached]

    async def loaded(self) -> Sequence[Model]:
        """Models in memory."""
        return [model for model in await self.list() if model.loaded]

    @bounded
    async def load(self, name: str, *, download: bool = False) -> Model:
        """Load a model into memory, which may take minutes. Does nothing if it is there.

        Args:
            name: The model.
            download: Download it first if its files are not here.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not here, and `download` was not said.
            ModelLoadFailed: The engine could not load it.
        """
        connection, model = await self._route(name, download=download)
        await connection.ensure_loaded(model)
        return model

    @bounded
    async def unload(self, name: str) -> Model:
        """Take a model out of memory. Does nothing if it is not there.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not even on this machine.
            ModelInUse: Calls still use it.
        """
        connection, model = await self._route(name, download=False)
        await connection.unload(model)
        return model

    @bounded
    async def download(
        self, name: str, progress: Progress | None = None, *, stall_s: float = STALL_S
    ) -> Model:
        """Download a model's files. Downloading it again goes on where it stopped.

        Cancelling the call stops the download at its next step, unless another client waits for
        the same model: they share one download. It is over when the service has the model.

        Args:
            name: The model.
            progress: Called with a `DownloadProgress` for each step, and every 2 s while only
                parts of the next step come.
            stall_s: Seconds without anything after which it counts as failed.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog could not be reached.
            DownloadFailed: The download broke off or stood still.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        if not stall_s > 0:
            raise InvalidRequest(f"stall_s is {stall_s:g}, not above 0", field="stall_s")
        connection = await self._connect()
        connection.controlled("download models")  # before the catalog is asked for seconds
        local = find_model(name, await connection.local_models())
        if local is not None and local.cached:
            return local
        model = find_model(name, await connection.catalog_for(name))
        if model is None:
            raise connection.not_found(name)
        if model.cached:
            return model
        meter = DownloadMeter(model.size_mb)
        return await connection.download(
            model, lambda percent: progress and progress(meter.report(percent)), stall_s=stall_s
        )

    @bounded
    async def register(self, path: Path | str, alias: str) -> Model:
        """Serve a directory with an ONNX model of the user's own under an alias.

        The directory stays where it is, and it stays registered until `unregister`.

        Args:
            path: Holds genai_config.json, the ONNX graph and the tokenizer.
            alias: The name to call it by.

        Raises:
            ModelRegistrationFailed: The directory is not such a model.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        connection, control = await self._controlled("register models")
        model = await control.register(path, alias)
        connection.forget(model)
        return model

    @bounded
    async def unregister(self, alias: str) -> None:
        """Serve a registered directory no longer. Its files stay.

        Raises:
            ModelNotFound: Nothing is registered under that alias.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        connection, control = await self._controlled("unregister models")
        model = await connection.resolve(alias)
        await control.unregister(model.alias)
        connection.forget(model)

    @bounded
    async def remove(self, name: str) -> int:
        """Delete a downloaded model's files, and return how many bytes that freed.

        Raises:
            ModelNotFound: No downloaded model has that name.
            ModelInUse: It is loaded.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        connection, control = await self._controlled("remove models")
        model = find_model(name, await connection.local_models())
        if model is None:
            raise ModelNotFound(f"no model on this machine is named {name!r}", model=name)
        try:
            freed = await control.remove(model.id)
        except ModelInUse as error:
            error.hint = f"Unload it first: `foundry-api models unload {model.alias}`."
            raise
        connection.forget(model)
        return freed

    async def _controlled(self, what: str) -> tuple[Connection, ControlClient]:
        connection = await self._connect()
        return connection, connection.controlled(what)
