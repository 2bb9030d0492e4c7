"""`client.models`: what models there are, and getting them in and out of memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from foundry_api.connection import find_model
from foundry_api.errors import ModelNotFound
from foundry_api.loading import check_drain, load_all, swap
from foundry_api.memory import DRAIN_S
from foundry_api.resilience.deadline import bounded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from foundry_api.connection import Connection
    from foundry_api.messages import Model, ModelUser
    from foundry_api.service.control import ControlClient

    Progress = Callable[[float], object]
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
            catalog: Ask Microsoft's catalog too. That takes 4 s when it can't be reached.

        Raises:
            CatalogUnavailable: The catalog was asked for and could not be reached.
            ServiceError: The service does not answer.
        """
        connection = await self._connect()
        local = list(await connection.local_models())
        if catalog:
            known = {model.id for model in local}
            public = await connection.public_models()
            local += [model for model in public if model.id not in known]
        return local

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
            MemoryBudgetExceeded: There is no room for it, and none can be made.
        """
        connection, model = await self._route(name, download=download)
        await connection.ensure_loaded(model)
        return model

    @bounded
    async def unload(self, name: str, *, drain: float = DRAIN_S, force: bool = False) -> Model:
        """Take a model out of memory. Does nothing if it is not there.

        Calls in flight are answered first. Calls that begin meanwhile wait, and load it again.
        The system may not get the memory back: engines keep some of it for the next model.

        Args:
            name: The model.
            drain: Seconds that this client's calls in flight may take to end; default 30.
            force: Neither wait for them nor heed other clients that use it; the service may still
                refuse. A service of SDK 1.x would not survive it, so it is asked as without.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not even on this machine.
            ModelInUse: Calls of this client, or other clients, still use it; `.users` tells who.
            InvalidRequest: `drain` is below 0.
        """
        check_drain(drain)
        connection, model = await self._route(name, download=False)
        await connection.memory.unload(model, drain_s=drain, force=force)
        return model

    @bounded
    async def swap(self, old: str, new: str, *, drain: float = DRAIN_S) -> Model:
        """Take one model out of memory, and load another in its place.

        If the new one can't be loaded, the old one is loaded again, and the error says so.

        Args:
            old: The model to unload, as by `unload`.
            new: The model to load.
            drain: Seconds that calls of the old one may take to end; default 30.

        Returns:
            The new model.

        Raises:
            InvalidRequest: Both are the same model, or `drain` is below 0.
            ModelInUse: The old one is still used; nothing was changed.
            ModelLoadFailed: The new one could not be loaded.
            ModelError: As `load`, before anything was changed.
        """
        check_drain(drain)
        return await swap(await self._route(old), await self._route(new), drain_s=drain)

    @bounded
    async def ensure_loaded(
        self, names: Iterable[str], *, download: bool = False
    ) -> Sequence[Model]:
        """Load several models, at once where the service allows it.

        Args:
            names: The models.
            download: Download those whose files are not here.

        Returns:
            The models, in the order of their names.

        Raises:
            ModelError: As `load`. All were tried before the first failure is raised.
        """
        return await load_all(tuple(names), partial(self._route, download=download))

    @bounded
    async def users(self, name: str) -> Sequence[ModelUser]:
        """Who uses a model: this client, and others of the same home.

        A client uses a model from its first call until a minute after its last, or until it is
        closed. Programs that do not use this package are not seen.

        Raises:
            ModelNotFound: No model has that name.
        """
        connection, model = await self._route(name)
        return await connection.memory.users(model.id)

    @bounded
    async def download(self, name: str, progress: Progress | None = None) -> Model:
        """Download a model's files.

        Cancelling the call cancels the download; a command line's service may go on with it.

        Args:
            name: The model.
            progress: Called with the percentage done, 0 to 100.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog could not be reached.
            DownloadFailed: The download broke off.
            UnsupportedFeature: The service can't be told to download.
        """
        connection = await self._connect()
        await connection.check_download(name)
        local = find_model(name, await connection.local_models())
        if local is not None and local.cached:
            return local
        model = find_model(name, await connection.catalog_for(name))
        if model is None:
            raise ModelNotFound(f"the catalog has no model named {name!r}", model=name)
        return model if model.cached else await connection.download(model, progress)

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
    async def remove(self, name: str) -> None:
        """Delete a downloaded model's files.

        Raises:
            ModelNotFound: No downloaded model has that name.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        connection, control = await self._controlled("remove models")
        model = await connection.resolve(name)
        await control.remove(model.id)
        connection.forget(model)

    async def _controlled(self, what: str) -> tuple[Connection, ControlClient]:
        connection = await self._connect()
        return connection, connection.controlled(what)
