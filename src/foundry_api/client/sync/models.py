"""`SyncModels`, written by `python3 dev.py generate` from client/models.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.core.catalog import MAX_AGE_S
from foundry_api.core.downloads import STALL_S
from foundry_api.core.residency.manager import DRAIN_S

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

    from foundry_api.client.models import Models, Progress
    from foundry_api.client.sync.background import BackgroundLoop
    from foundry_api.core.catalog import CatalogListing
    from foundry_api.core.downloads import DownloadProgress
    from foundry_api.types.models import Model, ModelUser

__all__ = ["SyncModels"]


class SyncModels:
    """The models of the service that the client talks to.

    Every name may be an alias, an id, or an id without its version, in any case.
    """

    def __init__(self, loop: BackgroundLoop, calls: Models) -> None:
        self._loop = loop
        self._async = calls

    def list(self, *, catalog: bool = False) -> Sequence[Model]:
        """Models on this machine, and on request those that could be downloaded.

        Args:
            catalog: Those of Microsoft's catalog too; see `catalog`.

        Raises:
            CatalogUnavailable: The catalog was asked for, cannot be reached, and never was.
            ServiceError: The service does not answer.
        """
        return self._loop.run(lambda: self._async.list(catalog=catalog))

    def catalog(self, *, refresh: bool = False, max_age_s: float = MAX_AGE_S) -> CatalogListing:
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
        return self._loop.run(lambda: self._async.catalog(refresh=refresh, max_age_s=max_age_s))

    def show(self, name: str) -> Sequence[Model]:
        """Every variant that a name means, those on this machine first.

        Args:
            name: An alias means all its variants, an id that one. The catalog is not asked for a
                registered directory.

        Raises:
            ModelNotFound: No model has that name.
            CatalogUnavailable: It is not on this machine, and the catalog cannot be reached.
            ServiceError: The service does not answer.
        """
        return self._loop.run(lambda: self._async.show(name))

    def cached(self) -> Sequence[Model]:
        """Models whose files are on this machine."""
        return self._loop.run(self._async.cached)

    def loaded(self) -> Sequence[Model]:
        """Models in memory."""
        return self._loop.run(self._async.loaded)

    def load(self, name: str, *, download: bool = False) -> Model:
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
        return self._loop.run(lambda: self._async.load(name, download=download))

    def unload(self, name: str, *, drain: float = DRAIN_S, force: bool = False) -> Model:
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
        return self._loop.run(lambda: self._async.unload(name, drain=drain, force=force))

    def swap(self, old: str, new: str, *, drain: float = DRAIN_S) -> Model:
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
        return self._loop.run(lambda: self._async.swap(old, new, drain=drain))

    def ensure_loaded(self, names: Iterable[str], *, download: bool = False) -> Sequence[Model]:
        """Load several models, at once where the service allows it.

        Args:
            names: The models.
            download: Download those whose files are not here.

        Returns:
            The models, in the order of their names.

        Raises:
            ModelError: As `load`. All were tried before the first failure is raised.
        """
        return self._loop.run(lambda: self._async.ensure_loaded(names, download=download))

    def users(self, name: str) -> Sequence[ModelUser]:
        """Who uses a model: this client, and others of the same home.

        A client uses a model from its first call until a minute after its last, or until it is
        closed. Programs that do not use this package are not seen.

        Raises:
            ModelNotFound: No model has that name.
        """
        return self._loop.run(lambda: self._async.users(name))

    def download(
        self, name: str, progress: Progress | None = None, *, stall_s: float = STALL_S
    ) -> Model:
        """Download a model's files. An interrupted download resumes where it stopped.

        Cancelling the call stops the download at its next step, unless another client waits for
        the same model: they share one download; a command line's service may go on with it. It is
        over when the service has the model.

        Args:
            name: The model.
            progress: Called with a `DownloadProgress` for each step, and every 2 s while only
                parts of the next step come.
            stall_s: Seconds without anything after which it counts as failed.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog could not be reached.
            DownloadFailed: The download broke off or stood still.
            HookFailed: `progress` failed, which ends the download.
            UnsupportedFeature: The service cannot download models.
        """
        return self._loop.run(lambda: self._async.download(name, progress, stall_s=stall_s))

    def stream_download(
        self, name: str, *, stall_s: float = STALL_S
    ) -> Generator[DownloadProgress]:
        """Download a model's files, and tell each step. Leaving the loop early stops it.

        Nothing is told of a model that is here. Otherwise as `download`.

        Args:
            name: The model.
            stall_s: Seconds without anything after which it counts as failed.

        Raises:
            FoundryError: As `download`, while iterating.
        """
        return self._loop.iterate(lambda: self._async.stream_download(name, stall_s=stall_s))

    def register(self, path: Path | str, alias: str) -> Model:
        """Serve a directory with an ONNX model of the user's own under an alias.

        The directory stays where it is, and it stays registered until `unregister`.

        Args:
            path: Holds genai_config.json, the ONNX graph and the tokenizer. A relative path is
                relative to this process's working directory; `~` is this user's home.
            alias: The name to call it by.

        Raises:
            ModelRegistrationFailed: The directory is not such a model.
            InvalidRequest: `path` is no path.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        return self._loop.run(lambda: self._async.register(path, alias))

    def unregister(self, alias: str) -> None:
        """Serve a registered directory no longer, for no program of this user. Its files stay.

        The model `demo` of this package always stays: every engine of it serves that model.

        Args:
            alias: An alias means all its versions, an id that one.

        Raises:
            ModelNotFound: Nothing is registered under that alias.
            ModelInUse: It is loaded.
            InvalidRequest: It is `demo`, which comes with this package.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        return self._loop.run(lambda: self._async.unregister(alias))

    def remove(self, name: str) -> int:
        """Delete a downloaded model's files, and return how many bytes that freed.

        Raises:
            ModelNotFound: No downloaded model has that name.
            ModelInUse: It is loaded.
            UnsupportedFeature: The service is not an engine host of this package.
        """
        return self._loop.run(lambda: self._async.remove(name))
