"""The native engine behind a typed face. Only the host process comes here.

`foundry_local_sdk` is imported when an engine starts and by its name, so that this package
type-checks and imports without it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from foundry_api.errors import (
    CatalogUnavailable,
    DownloadFailed,
    FoundryError,
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
    ModelRegistrationFailed,
    ServiceStartFailed,
    classify,
    clean,
)
from foundry_api.messages import Model
from foundry_api.service.model_files import ModelFiles, digest

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from foundry_api.service.handshake import HostConfig, ModelSource

__all__ = ["Engine", "NativeEngine"]

APP_NAME = "foundry-api"
DIGEST = "foundry_api_digest"
DEVICE = "foundry_api_device"
"""Properties of ours in a registration; the engine keeps names that it does not know."""

MAX_RACES = 20
"""How often another host may take the version that this one was about to register."""


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
        self._local = manager.get_catalog(sdk.catalog.CatalogType.LOCAL)
        self._public = manager.get_catalog(sdk.catalog.CatalogType.PUBLIC)
        self._builder: Callable[[], Any] = sdk.ModelInfoBuilder
        self._failure: type[Exception] = sdk.FoundryLocalException
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

    def catalog(self, *, public: bool) -> Sequence[Model]:
        """See `Engine.catalog`."""
        models = [_model(variant, public=public) for variant in self._variants(public=public)]
        if public and not models:
            raise _unavailable()
        return models

    def register(self, directory: Path, alias: str) -> Model:
        """See `Engine.register`."""
        files = ModelFiles.read(directory)
        return self._registered(files, alias, None, lambda path: path == files.directory)

    def ensure(self, source: ModelSource) -> Model:
        """Have a model served when a host starts, whichever host registered it.

        Two installations may share a home, each with its own copy of the demo model: a version
        with the same files serves both, wherever they lie.

        Raises:
            ModelRegistrationFailed: The directory is not a model, or the alias no name.
        """
        files = ModelFiles.read(Path(source.path))
        return self._registered(
            files, source.alias, source.license, lambda path: digest(path) == files.digest
        )

    def unregister(self, name: str) -> None:
        """See `Engine.unregister`."""
        try:
            self._local.unregister_model(name)
        except self._failure as error:
            raise _typed(error) from error

    def remove(self, name: str) -> None:
        """See `Engine.remove`."""
        if _matching(self._variants(public=False), name):
            raise InvalidRequest(
                f"{name} is a registered directory",
                field="model",
                hint="Unregister it; its files are yours to delete.",
            )
        cached = _matching(self._public.get_cached_models(), name)
        if not cached:
            raise ModelNotFound("no such model is cached", model=name)
        try:
            cached[0].remove_from_cache()
        except self._failure as error:
            raise _typed(error) from error

    def download(
        self, name: str, progress: Callable[[float], None], cancel: threading.Event
    ) -> Model:
        """See `Engine.download`."""
        found = _matching(variants := list(self._variants(public=True)), name)
        if not found:
            raise (
                ModelNotFound("the catalog has no such model", model=name)
                if variants
                else (_unavailable())
            )
        try:
            found[0].download(progress, cancel)
        except self._failure as error:
            raise DownloadFailed(clean(str(error)), model=name) from error
        if not found[0].is_cached:
            raise DownloadFailed("the download was cancelled", model=name)
        return _model(found[0], public=True)

    def _registered(
        self,
        files: ModelFiles,
        alias: str,
        license_name: str | None,
        same_place: Callable[[Path], bool],
    ) -> Model:
        """The newest version if it serves these files, else one more version."""
        for _ in range(MAX_RACES):
            versions = self._versions(alias)
            newest = versions[0] if versions else None
            if newest and _digest_of(newest) == files.digest and same_place(_path_of(newest)):
                return _model(newest, public=False)
            name, version = (newest.info.alias, newest.info.version + 1) if newest else (alias, 1)
            if registered := self._add(files, f"{name}:{version}", license_name):
                self._forget_stale(versions)
                return _model(registered, public=False)
        raise ModelRegistrationFailed(
            "other hosts keep registering the same name", model=alias, hint="Try again."
        )

    def _add(self, files: ModelFiles, model_id: str, license_name: str | None) -> Any | None:
        """Register a version; None if another host was faster."""
        metadata = self._builder()
        for key, value in (
            ("task", "chat-completion"),
            ("license", license_name),
            (DIGEST, files.digest),
            (DEVICE, files.device),
        ):
            if value is not None:
                metadata.set_string_property(key, value)
        metadata.set_int_property("filesize_mb", files.size_mb)
        try:
            return self._local.register_model(files.directory, model_id, metadata)
        except self._failure as error:
            if "already registered" in str(error):
                return None
            raise ModelRegistrationFailed(clean(str(error)), model=model_id) from error
        finally:
            metadata.close()

    def _forget_stale(self, versions: Iterable[Any]) -> None:
        """Unregister versions whose files are gone or changed. Others may serve another host."""
        for variant in versions:
            if digest(_path_of(variant)) == _digest_of(variant):
                continue
            try:
                self._local.unregister_model(variant.info.id)
            except self._failure as error:  # loaded, or another host was faster: both are fine
                print(f"kept {variant.info.id}: {clean(str(error))}", file=sys.stderr)  # noqa: T201 - the host's log

    def _versions(self, alias: str) -> list[Any]:
        """The registered versions of an alias, newest first, however the alias is spelt."""
        versions = [
            variant
            for variant in self._variants(public=False)
            if variant.info.alias.casefold() == alias.casefold()
        ]
        return sorted(versions, key=lambda variant: variant.info.version, reverse=True)

    def _variants(self, *, public: bool) -> Iterator[Any]:
        try:
            models = (self._public if public else self._local).list_models()
            for model in models:
                yield from model.variants
        except self._failure as error:
            raise _typed(error) from error


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


def _model(variant: Any, *, public: bool) -> Model:
    info = variant.info
    runtime = info.runtime
    device = runtime.device_type if runtime else None
    return Model(
        id=info.id,
        alias=info.alias,
        catalog="public" if public else "local",
        cached=variant.is_cached,
        loaded=variant.is_loaded,
        task=info.task,
        device=str(device) if device else info.get_string_property(DEVICE),
        size_mb=info.file_size_mb,
        context_length=info.context_length,
        license=info.license,
    )


def _path_of(variant: Any) -> Path:
    """Where a registered model lies; the engine says nothing once the directory is gone."""
    return Path(variant.get_path() or "missing")


def _digest_of(variant: Any) -> str | None:
    found: str | None = variant.info.get_string_property(DIGEST)
    return found


def _matching(variants: Iterable[Any], name: str) -> list[Any]:
    """The variants that a name means: an id, else an id without its version, else an alias."""
    wanted = name.casefold()
    ranked: list[tuple[int, Any]] = []
    for variant in variants:
        info = variant.info
        names = (info.id, info.id.rpartition(":")[0], info.alias)
        folded = [known.casefold() for known in names]
        if wanted in folded:
            ranked.append((folded.index(wanted), variant))
    return [variant for _, variant in sorted(ranked, key=lambda pair: pair[0])]


def _unavailable() -> CatalogUnavailable:
    return CatalogUnavailable("the public catalog could not be reached")


def _typed(error: Exception) -> FoundryError:
    told = clean(str(error))
    if "unload it first" in told:
        return ModelInUse(told, hint="Unload it first.")
    return classify(500, told)
