"""A typed interface to the native engine, for use in the host process."""

from __future__ import annotations

import importlib
import locale
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from foundry_api.engine.host.affinity import use_all_cpus
from foundry_api.engine.host.catalog import PublicCatalog
from foundry_api.engine.host.registry import Registry
from foundry_api.engine.host.variants import find_matching, get_digest, to_model, translate_error
from foundry_api.engine.models import download_cache, tuning
from foundry_api.engine.models.directory import compute_digest
from foundry_api.engine.models.tuning import TunedDirectories
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

    from foundry_api.engine.control_messages import PublicListing
    from foundry_api.engine.handshake import HostConfig
    from foundry_api.types.models import Model

__all__ = ["Engine", "NativeEngine", "make_import_error"]

NO_LIBRARY = "cannot open shared object file"  # as Linux' loader says it

APP_NAME = "foundry-api"
# The package installs without the C++ runtime that its libraries need on Windows.
REDISTRIBUTABLE = "https://aka.ms/vs/17/release/vc_redist.{machine}.exe"
_SIGNATURE = re.compile(r"sig=[^&\s\"']*")


class Engine(Protocol):
    """The operations of the control API. Every method blocks, so call it in a thread.

    Failures are raised as FoundryErrors, such as ModelNotFound, ModelInUse or CatalogUnavailable.
    """

    def list_local_models(self) -> Sequence[Model]:
        """List every registered model directory."""
        ...

    def list_public_models(self) -> PublicListing:
        """List every variant of the public catalog."""
        ...

    def register(self, directory: Path, alias: str) -> Model:
        """Register a model directory, as a new version if its files or its place changed.

        Raises InvalidRequest for an alias that is invalid or that of a built-in model.
        """
        ...

    def unregister(self, name: str) -> None:
        """Unregister an alias or one of its ids, but keep the files."""
        ...

    def remove(self, name: str) -> int:
        """Delete the files of a downloaded model and return how many bytes that freed."""
        ...

    def download(
        self, name: str, progress: Callable[[float], None], cancel: threading.Event
    ) -> Model:
        """Download a model by alias or id, in any case.

        `progress` is called with percent, from a thread of the engine's. `cancel` stops the
        download at its next progress report.
        """
        ...

    # Needed because the engine reports progress only for complete parts of 2 MB, of which it
    # requests 64 at once.
    def count_received(self, model_id: str) -> int:
        """Return a number that changes while bytes of a download arrive."""
        ...


class NativeEngine:
    """The engine of `foundry_local_sdk`, which allows one manager per process."""

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
            manager.get_catalog(sdk.catalog.CatalogType.LOCAL),
            sdk.ModelInfoBuilder,
            self._failure,
            TunedDirectories(Path(config.data_dir) / tuning.RELATIVE_PATH, config.threads),
        )
        self.version: str = sdk.version.__version__
        self.url: str = manager.urls[0]

    @classmethod
    def start(cls, config: HostConfig) -> NativeEngine:
        """Start the engine and its web service; raises ServiceStartFailed."""
        if sys.platform == "win32":
            # It gets paths in UTF-8. Its C++ library reads them in the code page of the system if
            # the C library's locale has another encoding: for C:\Users\Jörg, it would create
            # C:\Users\JÃ¶rg, and find no model.
            locale.setlocale(locale.LC_CTYPE, ".UTF-8")
        # Imported by name, so that this package imports and type-checks without the SDK.
        try:
            sdk: Any = importlib.import_module("foundry_local_sdk")
            importlib.import_module("foundry_local_sdk.catalog")
            importlib.import_module("foundry_local_sdk.version")
        except (ImportError, OSError) as error:
            raise make_import_error(error) from error
        try:
            configuration = sdk.Configuration(
                APP_NAME,
                app_data_dir=config.data_dir,
                logs_dir=config.logs_dir,
                # Port 0: the system chooses a free one.
                web=sdk.Configuration.WebService(urls=f"http://127.0.0.1:{config.port}"),
                catalog_urls=[(config.catalog_url, None)] if config.catalog_url else None,
                disable_nonessential_telemetry=True,
            )
            sdk.FoundryLocalManager.initialize(configuration)
            manager = sdk.FoundryLocalManager.instance
            use_all_cpus()  # before the first connection has a thread
            manager.start_web_service()
            return cls(sdk, manager, config)
        except (sdk.FoundryLocalException, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and NO_LIBRARY in str(error):
                raise make_import_error(error) from error  # it loads some libraries only now
            raise ServiceStartFailed(
                f"the engine did not start: {clean_message(str(error))}"
            ) from error

    @property
    def has_ended(self) -> bool:
        # The engine's own port has a shutdown route that needs no credential.
        return bool(self._manager.is_shutdown_requested())

    def list_local_models(self) -> Sequence[Model]:
        return [to_model(variant, public=False) for variant in self.registry.list_variants()]

    def list_public_models(self) -> PublicListing:
        return self._public.get_listing()

    def register(self, directory: Path, alias: str) -> Model:
        built_in = next((m for m in self._built_in if m.alias.casefold() == alias.casefold()), None)
        # A client registers a missing built-in model again, perhaps from another installation.
        if built_in and compute_digest(directory) != compute_digest(Path(built_in.path)):
            raise InvalidRequest(
                f"{alias} is the name of a model that comes with this package",
                field="alias",
                hint="Register the directory under another alias.",
                model=alias,
            )
        return self.registry.register(directory, alias)

    def unregister(self, name: str) -> None:
        matching = [
            variant.info.id for variant in find_matching(self.registry.list_variants(), name)
        ]
        built_in_ids = self._list_built_in_ids()
        # An alias may stand for a built-in model and for the user's own, which can be unregistered.
        user_ids = [model_id for model_id in matching if model_id not in built_in_ids]
        if matching and not user_ids:
            raise _make_built_in_error(name)
        for target in [name] if len(user_ids) == len(matching) else user_ids:
            self.registry.unregister(target)

    def _list_built_in_ids(self) -> set[str]:
        """List the ids of the models that this host was started with."""
        digests = {
            source.alias.casefold(): compute_digest(Path(source.path)) for source in self._built_in
        }
        return {
            variant.info.id
            for variant in self.registry.list_variants()
            if (digest := digests.get(variant.info.alias.casefold())) is not None
            and get_digest(variant) == digest
        }

    def remove(self, name: str) -> int:
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
        variants = find_matching(self._public.list_variants(), name)
        if not variants:
            raise ModelNotFound("the catalog has no such model", model=name)
        try:
            variants[0].download(progress, cancel)
        except self._failure as error:
            # The engine quotes whole answers. A URL's signature allows every reader of the message
            # to download, so it is removed, and the original exception is not chained.
            message = _SIGNATURE.sub("sig=...", clean_message(str(error)))
            raise DownloadFailed(message, model=name) from None
        if not variants[0].is_cached:
            raise DownloadFailed("the download was cancelled", model=name)
        return to_model(variants[0], public=True)

    def count_received(self, model_id: str) -> int:
        return download_cache.get_last_change(self._cache, model_id)


def make_import_error(
    error: ImportError | OSError, *, platform: str = sys.platform
) -> ServiceStartFailed:
    """Make the error for an SDK that is missing, or whose native libraries cannot be loaded."""
    if isinstance(error, ModuleNotFoundError):
        hint = "Install it: pip install foundry-local-sdk"
    elif platform == "win32":
        # The process counts, not the machine: Python for x64 also runs on ARM.
        url = REDISTRIBUTABLE.format(machine="arm64" if "ARM64" in sys.version else "x64")
        hint = (
            "A DLL that it needs is missing, most likely the Microsoft Visual C++ Redistributable. "
            f"Install it from {url}, then try again."
        )
    else:
        hint = (
            "Install the library that the message names; the engine needs it. libatomic.so.1 is in "
            "the package libatomic1 of Debian and Ubuntu, and in libatomic of Fedora."
        )
    return ServiceStartFailed(f"foundry-local-sdk cannot be imported: {error}", hint=hint)


def _make_built_in_error(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} comes with this package: every engine host serves it",
        field="model",
        hint="It takes memory only while it is loaded; "
        f"`foundry-api models unload {name}` unloads it.",
        model=name,
    )
