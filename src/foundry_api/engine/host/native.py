"""The native engine behind a typed face. Only the host process comes here.

`foundry_local_sdk` is imported when an engine starts and by its name, so that this package
type-checks and imports without it.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from foundry_api.engine.host.catalog import PublicCatalog
from foundry_api.engine.host.registry import Registry
from foundry_api.engine.host.variants import find_matching, get_digest, to_model, translate_error
from foundry_api.engine.models import download_cache
from foundry_api.engine.models.directory import compute_digest
from foundry_api.types.errors import (
    DownloadFailed,
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
    ServiceStartFailed,
)
from foundry_api.wire.errors import clean_message

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from foundry_api.engine.host.catalog import PublicListing
    from foundry_api.engine.state import HostConfig
    from foundry_api.types.models import Model

__all__ = ["Engine", "NativeEngine"]

APP_NAME = "foundry-api"
_SIGNATURE = re.compile(r"sig=[^&\s\"']*")


class Engine(Protocol):
    """What the control API needs of an engine. Every method blocks; call it in a thread."""

    def list_local_models(self) -> Sequence[Model]:
        """Every registered model directory."""
        ...

    def list_public_models(self) -> PublicListing:
        """Every variant of the public catalog, and how old that knowledge is.

        Raises:
            CatalogUnavailable: It cannot be reached, and never was. Takes seconds to find out.
        """
        ...

    def register(self, directory: Path, alias: str) -> Model:
        """Serve a model directory under an alias, as a new version if it changed or moved.

        Raises:
            ModelRegistrationFailed: The directory is not a model, or the alias no name.
        """
        ...

    def unregister(self, name: str) -> None:
        """Forget an alias or one of its ids; the files stay.

        Raises:
            ModelNotFound: It is not registered.
            ModelInUse: It is loaded.
            InvalidRequest: It comes with the package; the user's own under its alias go.
        """
        ...

    def remove(self, name: str) -> int:
        """Delete the files of a downloaded model, and return how many bytes that freed.

        Raises:
            ModelNotFound: No such model is cached.
            ModelInUse: It is loaded.
            InvalidRequest: It is a registered directory, which is not ours to delete.
        """
        ...

    def download(
        self, name: str, progress: Callable[[float], None], cancel: threading.Event
    ) -> Model:
        """Download a model of the public catalog.

        Args:
            name: Alias or id, in any case.
            progress: Called with percent, from a thread of the engine's.
            cancel: Stops the download at its next progress report.

        Raises:
            ModelNotFound: The catalog has no such model.
            CatalogUnavailable: The catalog cannot be reached.
            DownloadFailed: It broke off, or was cancelled.
        """
        ...

    def count_received(self, model_id: str) -> int:
        """A number that changes while bytes of a model's download arrive.

        The engine itself reports only whole parts of 2 MB, and asks for 64 of them at once.
        """
        ...


class NativeEngine:
    """FoundryLocalManager, which there can be only one of in a process.

    Args:
        sdk: The module `foundry_local_sdk`.
        manager: Its manager, which serves.
        config: What the host was started with.
    """

    def __init__(self, sdk: Any, manager: Any, config: HostConfig) -> None:
        self._manager = manager
        self._built_in = config.models
        self._failure: type[Exception] = sdk.FoundryLocalException
        self._cache = Path(config.data_dir) / download_cache.RELATIVE_PATH
        self._public = PublicCatalog(
            manager.get_catalog(sdk.catalog.CatalogType.PUBLIC),
            self._failure,
            models=self._cache,
            log=Path(config.log_path),
        )
        self.registry = Registry(
            manager.get_catalog(sdk.catalog.CatalogType.LOCAL), sdk.ModelInfoBuilder, self._failure
        )
        self.version: str = sdk.version.__version__
        self.url: str = manager.urls[0]

    @classmethod
    def start(cls, config: HostConfig) -> NativeEngine:
        """Start the engine and its web service on an ephemeral loopback port.

        Raises:
            ServiceStartFailed: foundry-local-sdk is missing or its engine does not come up.
        """
        sdk = _import_sdk()
        try:
            sdk.FoundryLocalManager.initialize(_make_configuration(sdk, config))
            manager = sdk.FoundryLocalManager.instance
            manager.start_web_service()
            return cls(sdk, manager, config)
        except (sdk.FoundryLocalException, RuntimeError, OSError) as error:
            raise ServiceStartFailed(
                f"the engine did not start: {clean_message(str(error))}"
            ) from error

    @property
    def has_ended(self) -> bool:
        """Whether somebody shut the engine down, which its own port lets anybody do."""
        return bool(self._manager.is_shutdown_requested())

    def list_local_models(self) -> Sequence[Model]:
        """See `Engine.list_local_models`."""
        return [to_model(variant, public=False) for variant in self.registry.list_variants()]

    def list_public_models(self) -> PublicListing:
        """See `Engine.list_public_models`."""
        return self._public.get_listing()

    def register(self, directory: Path, alias: str) -> Model:
        """See `Engine.register`."""
        return self.registry.register(directory, alias)

    def unregister(self, name: str) -> None:
        """See `Engine.unregister`."""
        meant = [variant.info.id for variant in find_matching(self.registry.list_variants(), name)]
        built_in_ids = self._list_built_in_ids()
        users = [model_id for model_id in meant if model_id not in built_in_ids]
        if meant and not users:
            raise _make_built_in_error(name)
        for target in [name] if len(users) == len(meant) else users:
            self.registry.unregister(target)

    def _list_built_in_ids(self) -> set[str]:
        """Ids under which the models that this host was started with are served."""
        files = {
            source.alias.casefold(): compute_digest(Path(source.path)) for source in self._built_in
        }
        return {
            variant.info.id
            for variant in self.registry.list_variants()
            if (known := files.get(variant.info.alias.casefold())) is not None
            and get_digest(variant) == known
        }

    def remove(self, name: str) -> int:
        """See `Engine.remove`."""
        registered = {
            variant.info.id for variant in find_matching(self.registry.list_variants(), name)
        }
        if registered:
            if registered <= self._list_built_in_ids():
                raise _make_built_in_error(name)
            raise InvalidRequest(
                f"{name} is a registered directory",
                field="model",
                hint="Unregister it; its files are yours to delete.",
            )
        cached = find_matching(self._public.list_cached(), name)
        if not cached:
            raise ModelNotFound("no such model is cached", model=name)
        try:
            if cached[0].is_loaded:
                raise ModelInUse(f"{cached[0].info.id} is loaded", model=cached[0].info.id)
            size = download_cache.get_size_bytes(Path(cached[0].get_path()))
            cached[0].remove_from_cache()
        except self._failure as error:
            raise translate_error(error) from error
        return size

    def download(
        self, name: str, progress: Callable[[float], None], cancel: threading.Event
    ) -> Model:
        """See `Engine.download`."""
        variants = find_matching(self._public.list_variants(), name)
        if not variants:
            raise ModelNotFound("the catalog has no such model", model=name)
        try:
            variants[0].download(progress, cancel)
        except self._failure as error:
            raise DownloadFailed(_strip_signature(clean_message(str(error))), model=name) from None
        if not variants[0].is_cached:
            raise DownloadFailed("the download was cancelled", model=name)
        return to_model(variants[0], public=True)

    def count_received(self, model_id: str) -> int:
        """See `Engine.count_received`."""
        return download_cache.get_last_change(self._cache, model_id)


def _make_built_in_error(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} comes with this package: every engine of it serves that model",
        field="model",
        hint=f"It takes no memory unless it is loaded; `foundry-api models unload {name}` frees "
        "that.",
        model=name,
    )


def _strip_signature(message: str) -> str:
    """A message without what allows its reader to download: the engine quotes whole answers."""
    return _SIGNATURE.sub("sig=...", message)


def _import_sdk() -> Any:
    try:
        sdk = importlib.import_module("foundry_local_sdk")
        importlib.import_module("foundry_local_sdk.catalog")
        importlib.import_module("foundry_local_sdk.version")
    except ImportError as error:
        raise ServiceStartFailed(
            f"foundry-local-sdk cannot be imported: {error}",
            hint='Install it: pip install "foundry-api[embedded]"',
        ) from error
    return sdk


def _make_configuration(sdk: Any, config: HostConfig) -> Any:
    return sdk.Configuration(
        APP_NAME,
        app_data_dir=config.data_dir,
        logs_dir=config.logs_dir,
        web=sdk.Configuration.WebService(urls="http://127.0.0.1:0"),
        catalog_urls=[(config.catalog_url, None)] if config.catalog_url else None,
        disable_nonessential_telemetry=True,
    )
