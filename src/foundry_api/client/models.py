"""`client.models`: list, download, load and unload models."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from foundry_api.core.catalog import MAX_AGE_S
from foundry_api.core.connection import find_variants, match_model
from foundry_api.core.downloads import STALL_S, ProgressMeter, iter_progress
from foundry_api.core.model_loading import check_drain, load_all, swap
from foundry_api.core.residency.manager import DRAIN_S
from foundry_api.model_import.directory import delete_imported, find_imported
from foundry_api.resilience.deadline import enforce_deadline
from foundry_api.types.checks import check_flag, check_name, check_range, check_several
from foundry_api.types.errors import (
    CatalogUnavailable,
    HookFailed,
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
)
from foundry_api.types.user_code import describe
from foundry_api.types.values import as_float, format_value

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from foundry_api.core.catalog import CatalogListing
    from foundry_api.core.connection import Connection
    from foundry_api.core.downloads import DownloadProgress
    from foundry_api.engine.control import ControlClient
    from foundry_api.model_import.types import ImportProgress, Precision
    from foundry_api.types.models import Model, ModelUser

    Progress = Callable[[DownloadProgress], object]
    Connect = Callable[[], Awaitable[Connection]]
    Route = Callable[..., Awaitable[tuple[Connection, Model]]]

__all__ = ["Models"]

_T = TypeVar("_T")  # the progress of a download or an import


class Models:
    """Manage the models of the client's service.

    Names are aliases, ids, or ids without a version; case does not matter.
    """

    def __init__(self, connect: Connect, route: Route, home: Path | None) -> None:
        self._connect = connect
        self._route = route
        self._home = home

    @enforce_deadline
    async def list(self, *, catalog: bool = False) -> Sequence[Model]:
        """List the models on this machine.

        Args:
            catalog: Also list Microsoft's catalog; see `catalog`.

        Raises:
            CatalogUnavailable: With `catalog`: it cannot be reached and never was.
            ServiceError: The service does not respond.
        """
        connection = await self._connect()
        local = await connection.list_local_models()
        if not catalog:
            return local
        known = {model.id for model in local}
        listing = await connection.catalog.get_listing()
        return [*local, *(model for model in listing.models if model.id not in known)]

    @enforce_deadline
    async def catalog(
        self, *, refresh: bool = False, max_age_s: float = MAX_AGE_S
    ) -> CatalogListing:
        """Return the models that can be downloaded, and when the catalog was fetched.

        If the catalog cannot be reached, the last one is returned, and `unreachable` says why;
        finding that out takes about 4 s.

        Args:
            refresh: Ask the service even if its last answer is recent. An engine of SDK 2.x
                fetches the catalog when it starts and then every few hours, so a service that
                started offline has no new models until it restarts.
            max_age_s: Maximum age of an answer of the service that is reused, in seconds.

        Raises:
            CatalogUnavailable: The catalog cannot be reached and never was.
            ServiceError: The service does not respond.
        """
        age_s = check_range("max_age_s", max_age_s, 0, math.inf)
        if age_s is None:
            raise InvalidRequest("max_age_s is None, not a number", field="max_age_s")
        connection = await self._connect()
        return await connection.catalog.get_listing(refresh=refresh, max_age_s=age_s)

    @enforce_deadline
    async def show(self, name: str) -> Sequence[Model]:
        """Return the variants of a model, those on this machine first.

        Args:
            name: An alias for all its variants, or an id for one. A registered directory is found
                without the catalog.

        Raises:
            ModelNotFound: No model has that name.
            CatalogUnavailable: The model is not on this machine and the catalog cannot be reached.
            ServiceError: The service does not respond.
        """
        name = check_name("name", name)
        connection = await self._connect()
        here = find_variants(name, await connection.list_local_models())
        if any(model.catalog == "local" for model in here):
            return here
        try:
            known = await connection.fetch_catalog(name)
        except CatalogUnavailable:
            if not here:
                raise
            known = here
        found = find_variants(name, known)
        if not found:
            raise connection.make_not_found_error(name)
        return sorted(found, key=lambda model: not model.cached)

    async def cached(self) -> Sequence[Model]:
        """List the models whose files are on this machine."""
        return [model for model in await self.list() if model.cached]

    async def loaded(self) -> Sequence[Model]:
        """List the models in memory."""
        return [model for model in await self.list() if model.loaded]

    @enforce_deadline
    async def load(self, name: str, *, download: bool = False) -> Model:
        """Load a model into memory; it may take minutes. Do nothing if the model is loaded.

        Args:
            name: The model.
            download: Download the model first if its files are not on this machine.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not on this machine, and `download` is False.
            ModelLoadFailed: The engine could not load the model.
            MemoryBudgetExceeded: The memory budget has no room for it, and none can be made.
        """
        connection, model = await self._route(check_name("name", name), download=download)
        await connection.ensure_loaded(model)
        return model

    @enforce_deadline
    async def unload(self, name: str, *, drain: float = DRAIN_S, force: bool = False) -> Model:
        """Unload a model from memory. Do nothing if the model is not loaded.

        Calls in flight finish first. Calls that start meanwhile wait and load the model again.
        The engine may keep some of the memory for the next model.

        Args:
            name: The model.
            drain: Maximum seconds to wait for this client's calls in flight; default 30.
            force: Don't wait, and ignore other clients that use the model; the service may still
                refuse. Ignored for SDK 1.x, whose service would crash.

        Raises:
            ModelNotFound: No model has that name.
            ModelNotCached: Its files are not on this machine.
            ModelInUse: This client or another one still uses the model; see `.users`.
            InvalidRequest: `drain` is negative.
        """
        drain_s = check_drain(drain)
        connection, model = await self._route(check_name("name", name), download=False)
        await connection.models.unload(model, drain_s=drain_s, force=force)
        return model

    @enforce_deadline
    async def swap(self, old: str, new: str, *, drain: float = DRAIN_S) -> Model:
        """Unload one model and load another in its place.

        If the new model cannot be loaded, the old one is loaded again, and the error says so.

        Args:
            old: The model to unload.
            new: The model to load.
            drain: Maximum seconds to wait for calls of the old model; default 30.

        Returns:
            The new model.

        Raises:
            InvalidRequest: Both are the same model, or `drain` is negative.
            ModelInUse: The old model is still in use; nothing was changed.
            ModelLoadFailed: The new model could not be loaded.
            ModelError: As in `load`; nothing was changed.
        """
        drain_s = check_drain(drain)
        old, new = check_name("old", old), check_name("new", new)
        return await swap(await self._route(old), await self._route(new), drain_s=drain_s)

    @enforce_deadline
    async def ensure_loaded(
        self, names: Iterable[str], *, download: bool = False
    ) -> Sequence[Model]:
        """Load several models, in parallel where the service can.

        Args:
            names: The models.
            download: Download models whose files are not on this machine.

        Returns:
            The models, in the order of `names`.

        Raises:
            ModelError: As in `load`. The first failure is raised after all models were tried.
        """
        if isinstance(names, str):
            raise InvalidRequest(f"names is {names!r}, not a list", field="names")
        names = check_several("names", names, "a list of names")
        checked = tuple(check_name(f"names[{index}]", name) for index, name in enumerate(names))
        return await load_all(checked, partial(self._route, download=download))

    @enforce_deadline
    async def users(self, name: str) -> Sequence[ModelUser]:
        """List the clients of the same home that use a model, this one included.

        A client uses a model from its first call until a minute after its last call, or until it
        is closed. Programs without this package are not listed.

        Raises:
            ModelNotFound: No model has that name.
        """
        connection, model = await self._route(check_name("name", name))
        return await connection.models.list_users(model.id)

    @enforce_deadline
    async def download(
        self, name: str, progress: Progress | None = None, *, stall_s: float = STALL_S
    ) -> Model:
        """Download a model's files. An interrupted download resumes where it stopped.

        Clients that download the same model share one download. Cancelling the call stops it at
        its next step, unless another client waits for it. The service of the Foundry command line
        may continue.

        Args:
            name: The model.
            progress: Called with a `DownloadProgress` at each step that the service reports.
                An engine of this package reports steps of 0.1 % or more, and repeats the last
                one every 2 s while data arrives without a new one.
            stall_s: Maximum seconds without any data; default 120.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog cannot be reached.
            DownloadFailed: The download broke off or stalled.
            HookFailed: `progress` raised an exception, which stops the download.
            UnsupportedFeature: The service cannot download models.
        """
        limit_s = as_float(stall_s)
        if limit_s is None or not limit_s > 0:
            raise InvalidRequest(
                f"stall_s is {format_value(stall_s)}, not above 0", field="stall_s"
            )
        name = check_name("name", name)
        connection = await self._connect()
        await connection.check_download(name)
        local = match_model(name, await connection.list_local_models())
        if local is not None and local.cached:
            return local
        model = match_model(name, await connection.fetch_catalog(name))
        if model is None:
            raise connection.make_not_found_error(name)
        if model.cached:
            return model
        meter = ProgressMeter(model.size_mb)
        report = _guard(progress)
        return await connection.download(
            model, lambda percent: report(meter.report(percent)), stall_s=limit_s
        )

    def stream_download(
        self, name: str, *, stall_s: float = STALL_S
    ) -> AsyncGenerator[DownloadProgress]:
        """Download a model's files and stream the progress. Leaving the loop early stops it.

        For a model that is already on this machine there is nothing to iterate.

        Args:
            name: The model.
            stall_s: Maximum seconds without any data; default 120.

        Raises:
            FoundryError: As in `download`, while iterating.
        """
        return iter_progress(partial(self.download, name, stall_s=stall_s))

    @enforce_deadline
    async def register(self, path: Path | str, alias: str) -> Model:
        """Register a directory with your own ONNX model, to be served under an alias.

        The directory is neither copied nor changed. It stays registered until `unregister`.

        Args:
            path: The directory with genai_config.json, the ONNX graph and the tokenizer. `~` is
                expanded.
            alias: The name of the model: letters, digits, `.`, `_` and `-`. It then stands for this
                model, also if the catalog has one with that alias, which keeps its id.

        Raises:
            ModelRegistrationFailed: The directory holds no valid model.
            InvalidRequest: `path` is not a path, `alias` is invalid, or it is `demo`, which is part
                of this package.
            UnsupportedFeature: The service was not started by this package.
        """
        alias = check_name("alias", alias)
        connection, control = await self._require_control("register models")
        model = await control.register(path, alias)
        connection.forget(model)
        return model

    @enforce_deadline
    async def import_model(
        self,
        source: Path | str,
        alias: str,
        *,
        precision: Precision = "int4",
        output: Path | str | None = None,
        check: bool = True,
        setup: bool = False,
        progress: Callable[[ImportProgress], object] | None = None,
    ) -> Model:
        """Convert a model of Hugging Face or a GGUF file for the engine, and register it.

        It takes minutes to hours and needs memory for all weights as 32-bit floats, but no network
        once the packages that convert models are installed. A stopped import continues at the step
        at which it stopped when it is called again with the same arguments. The source is not
        changed. `remove` deletes an imported model.

        Args:
            source: A directory with a Hugging Face model (safetensors), or a GGUF file.
            alias: The name of the model; see `register`.
            precision: `int4`, `int8` or `fp16`. With fp16 the files have 16 bits per weight, and
                the memory 32.
            output: The directory to make, which must not exist or be empty; default is one in the
                data directory of this package.
            check: Compare the first tokens of five answers with those of the source.
            setup: Install the packages that convert models if they are missing: gigabytes, into an
                environment of their own.
            progress: Called with an `ImportProgress` for each step and within it.

        Raises:
            ModelSourceUnsupported: The model cannot be converted; nothing was made.
            ModelBuilderMissing: The packages are missing, and `setup` is False.
            ModelImportFailed: A step failed, or the answers differ too much from the source's.
            InvalidRequest: An argument is invalid, `alias` is taken, or `output` has other files.
            HookFailed: `progress` raised an exception, which stops the import.
            UnsupportedFeature: The service was not started by this package.
        """
        from foundry_api.model_import import importer  # noqa: PLC0415 - few programs import models

        request = await asyncio.to_thread(
            importer.prepare_import,
            source,
            check_name("alias", alias),
            precision=precision,
            output=output,
            home=self._home,
            check=check_flag("check", check),
        )
        connection, _ = await self._require_control("import models")
        request.require_free_alias(await connection.list_local_models())
        report = _guard(progress)
        if check_flag("setup", setup):
            await importer.set_up_builder(request.builder, report)
        await importer.convert_model(request, report)
        # Not the connection from before: its service may have ended during the conversion.
        return await self.register(request.output, alias)

    @enforce_deadline
    async def unregister(self, alias: str) -> None:
        """Unregister a directory, for all programs of this user. Its files are not deleted.

        Args:
            alias: An alias for all its versions, or an id for one.

        Raises:
            ModelNotFound: Nothing is registered under that alias.
            ModelInUse: The model is loaded.
            InvalidRequest: The model is `demo`, which is part of this package.
            UnsupportedFeature: The service was not started by this package.
        """
        alias = check_name("alias", alias)
        connection, control = await self._require_control("unregister models")
        model = match_model(alias, await connection.list_local_models())
        if model is None:
            raise ModelNotFound(f"no model on this machine is named {alias!r}", model=alias)
        is_id = alias.strip().casefold() == model.id.casefold()
        try:
            await control.unregister(model.id if is_id else model.alias)
        except ModelInUse as error:
            error.hint = f"Unload it first: `foundry-api models unload {model.alias}`."
            raise
        connection.forget(model)

    @enforce_deadline
    async def remove(self, name: str) -> int:
        """Delete the files of a downloaded or imported model. Return the number of bytes freed.

        Directories that were registered, imported to an `output` of yours, or that are registered
        under another alias too, are not deleted; use `unregister` for them.

        Raises:
            ModelNotFound: No downloaded or imported model has that name.
            ModelInUse: The model is loaded.
            UnsupportedFeature: The service was not started by this package, and is no gateway.
        """
        name = check_name("name", name)
        connection = await self._connect()
        models = await connection.list_local_models()
        model = match_model(name, models)
        if model is None and connection.dialect.manages_calls:
            raise connection.make_not_found_error(name)
        if model is not None and connection.control is None:
            freed = await connection.dialect.remove(model)
            connection.forget(model)
            return freed
        control = connection.require_control("remove models")
        if model is None:
            raise ModelNotFound(f"no model on this machine is named {name!r}", model=name)
        imported = find_imported(model, models, self._home)
        try:
            if imported is None:
                freed = await control.remove(model.id)
            else:
                await control.unregister(model.id)
                freed = await asyncio.to_thread(delete_imported, imported)
        except ModelInUse as error:
            error.hint = f"Unload it first: `foundry-api models unload {model.alias}`."
            raise
        connection.forget(model)
        return freed

    async def _require_control(self, action: str) -> tuple[Connection, ControlClient]:
        connection = await self._connect()
        return connection, connection.require_control(action)


def _guard(progress: Callable[[_T], object] | None) -> Callable[[_T], None]:
    """Return a callback that raises HookFailed if that of the caller raises."""

    def report(step: _T) -> None:
        if progress is None:
            return
        try:
            progress(step)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise HookFailed(f"the progress callback failed: {describe(error)}") from error

    return report
