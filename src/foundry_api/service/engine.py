"""The native engine behind a typed face. Only the host process comes here.

`foundry_local_sdk` is imported when an engine starts and by its name, so that this package
type-checks and imports without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

from foundry_api.classify import clean
from foundry_api.errors import (
    CatalogUnavailable,
    DownloadFailed,
    InvalidRequest,
    ModelNotFound,
    ServiceStartFailed,
)
from foundry_api.service.registry import Registry
from foundry_api.service.variants import described, matching, typed

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from foundry_api.messages import Model
    from foundry_api.service.handshake import HostConfig

__all__ = ["Engine", "NativeEngine"]

APP_NAME = "foundry-api"


class Engine(Protocol):
    """What the control API needs of an engine. Every method blocks; call it in a thread."""

    def catalog(self, *, public: bool) -> Sequence[Model]:
        """Every variant of the public or of the local catalog.

        Raises:
            CatalogUnavailable: The public catalog cannot be reached. Takes seconds to find out.
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
        """
        ...

    def remove(self, name: str) -> None:
        """Delete the files of a downloaded model.

        Raises:
            ModelNotFound: No such model is cached.
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


class NativeEngine:
    """FoundryLocalManager, which there can be only one of in a process."""

    def __init__(self, sdk: Any, manager: Any) -> None:
        self._manager = manager
        self._public = manager.get_catalog(sdk.catalog.CatalogType.PUBLIC)
        self._failure: type[Exception] = sdk.FoundryLocalException
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
        sdk = _sdk()
        try:
            sdk.FoundryLocalManager.initialize(_configuration(sdk, config))
            manager = sdk.FoundryLocalManager.instance
            manager.start_web_service()
            return cls(sdk, manager)
        except (sdk.FoundryLocalException, RuntimeError, OSError) as error:
            raise ServiceStartFailed(f"the engine did not start: {clean(str(error))}") from error

    @property
    def ended(self) -> bool:
        """Whether somebody shut the engine down, which its own port lets anybody do."""
        return bool(self._manager.is_shutdown_requested())

    def catalog(self, *, public: bool) -> Sequence[Model]:
        """See `Engine.catalog`."""
        variants = self._public_variants() if public else self.registry.variants()
        return [described(variant, public=public) for variant in variants]

    def register(self, directory: Path, alias: str) -> Model:
        """See `Engine.register`."""
        return self.registry.register(directory, alias)

    def unregister(self, name: str) -> None:
        """See `Engine.unregister`."""
        self.registry.unregister(name)

    def remove(self, name: str) -> None:
        """See `Engine.remove`."""
        if matching(self.registry.variants(), name):
            raise InvalidRequest(
                f"{name} is a registered directory",
                field="model",
                hint="Unregister it; its files are yours to delete.",
            )
        try:
            cached = matching(self._public.get_cached_models(), name)
            if not cached:
                raise ModelNotFound("no such model is cached", model=name)
            cached[0].remove_from_cache()
        except self._failure as error:
            raise typed(error) from error

    def download(
        self, name: str, progress: Callable[[float], None], cancel: threading.Event
    ) -> Model:
        """See `Engine.download`."""
        found = matching(self._public_variants(), name)
        if not found:
            raise ModelNotFound("the catalog has no such model", model=name)
        try:
            found[0].download(progress, cancel)
        except self._failure as error:
            raise DownloadFailed(clean(str(error)), model=name) from error
        if not found[0].is_cached:
            raise DownloadFailed("the download was cancelled", model=name)
        return described(found[0], public=True)

    def _public_variants(self) -> list[Any]:
        """Every variant of the public catalog; the SDK says nothing instead of failing offline."""
        try:
            models = self._public.list_models()
            variants = [variant for model in models for variant in model.variants]
        except self._failure as error:
            raise typed(error) from error
        if not variants:
            raise CatalogUnavailable("the public catalog could not be reached")
        return variants


def _sdk() -> Any:
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


def _configuration(sdk: Any, config: HostConfig) -> Any:
    return sdk.Configuration(
        APP_NAME,
        app_data_dir=config.data_dir,
        logs_dir=config.logs_dir,
        web=sdk.Configuration.WebService(urls="http://127.0.0.1:0"),
        catalog_urls=[(config.catalog_url, None)] if config.catalog_url else None,
        disable_nonessential_telemetry=True,
    )
