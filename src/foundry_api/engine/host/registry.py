"""The engine's local catalog: model directories registered under an alias, in versions.

The engine keeps the registrations in a file of its own, which all hosts of a home share and see
at once. It refuses an id that is taken, whoever took it: that is what decides races between hosts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_api.engine.host import log
from foundry_api.engine.host.variants import (
    DEVICE,
    DIGEST,
    get_digest,
    get_path,
    to_model,
    translate_error,
)
from foundry_api.engine.models.directory import ModelFiles, compute_digest
from foundry_api.engine.models.task import detect_task
from foundry_api.engine.models.validate import validate
from foundry_api.types.errors import ModelRegistrationFailed
from foundry_api.wire.errors import clean_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from foundry_api.engine.state import ModelSource
    from foundry_api.types.models import Model

__all__ = ["Registry"]

MAX_RETRIES = 20
"""How often another host may take the version that this one was about to register."""


class Registry:
    """Registers and forgets model directories.

    Args:
        catalog: The SDK's local catalog.
        builder: Makes the SDK's metadata.
        failure: What the SDK raises.
    """

    def __init__(self, catalog: Any, builder: Callable[[], Any], failure: type[Exception]) -> None:
        self._catalog = catalog
        self._builder = builder
        self._failure = failure

    def register(self, directory: Path, alias: str) -> Model:
        """Serve a directory, as a new version if its files changed or lay elsewhere.

        Raises:
            ModelRegistrationFailed: The directory cannot be served, or the alias is no name.
        """
        files = validate(directory)
        return self._get_newest(files, alias, None, lambda path: path == files.directory)

    def ensure_registered(self, source: ModelSource) -> Model:
        """Have a model served when a host starts, whichever host registered it.

        Two installations may share a home, each with its own copy of the demo model: a version
        with the same files serves both, wherever they lie.

        Raises:
            ModelRegistrationFailed: The directory is not a model, or the alias no name.
        """
        files = ModelFiles.read(Path(source.path))
        return self._get_newest(
            files, source.alias, source.license, lambda path: compute_digest(path) == files.digest
        )

    def unregister(self, name: str) -> None:
        """Forget an alias or one of its ids.

        Raises:
            ModelNotFound: It is not registered.
            ModelInUse: It is loaded.
        """
        try:
            self._catalog.unregister_model(name)
        except self._failure as error:
            raise translate_error(error) from error

    def list_variants(self) -> Iterator[Any]:
        """Every registered version of every alias."""
        try:
            for model in self._catalog.list_models():
                yield from model.variants
        except self._failure as error:
            raise translate_error(error) from error

    def _get_newest(
        self,
        files: ModelFiles,
        alias: str,
        license_name: str | None,
        same_place: Callable[[Path], bool],
    ) -> Model:
        """The newest version if it serves these files, else one more version."""
        for _ in range(MAX_RETRIES):
            versions = self._list_versions(alias)
            newest = versions[0] if versions else None
            if newest and get_digest(newest) == files.digest and same_place(get_path(newest)):
                return to_model(newest, public=False)
            name, version = (newest.info.alias, newest.info.version + 1) if newest else (alias, 1)
            if added := self._add(files, f"{name}:{version}", license_name):
                self._remove_stale(versions)
                return to_model(added, public=False)
        raise ModelRegistrationFailed(
            "other hosts keep registering the same name", model=alias, hint="Try again."
        )

    def _add(self, files: ModelFiles, model_id: str, license_name: str | None) -> Any | None:
        """Register a version; None if another host was faster."""
        metadata = self._make_metadata(files, license_name)
        try:
            return self._catalog.register_model(files.directory, model_id, metadata)
        except self._failure as error:
            if "already registered" in str(error):
                return None
            raise ModelRegistrationFailed(clean_message(str(error)), model=model_id) from error
        finally:
            metadata.close()

    def _make_metadata(self, files: ModelFiles, license_name: str | None) -> Any:
        metadata = self._builder()
        metadata.set_string_property("task", detect_task(files.directory))
        metadata.set_int_property("filesize_mb", files.size_mb)
        metadata.set_string_property(DIGEST, files.digest)
        metadata.set_string_property(DEVICE, files.device)
        if files.supports_tools:
            metadata.set_int_property("supports_tool_calling", 1)
        if license_name is not None:
            metadata.set_string_property("license", license_name)
        return metadata

    def _remove_stale(self, versions: Iterable[Any]) -> None:
        """Unregister versions whose files are gone or changed. Others may serve another host."""
        for variant in versions:
            if compute_digest(get_path(variant)) == get_digest(variant):
                continue
            try:
                self._catalog.unregister_model(variant.info.id)
            except self._failure as error:  # loaded, or another host was faster: both are fine
                log.write_line(f"kept {variant.info.id}: {clean_message(str(error))}")

    def _list_versions(self, alias: str) -> list[Any]:
        """The registered versions of an alias, newest first, however the alias is spelt."""
        folded_alias = alias.casefold()
        matches = [
            version
            for version in self.list_variants()
            if version.info.alias.casefold() == folded_alias
        ]
        return sorted(matches, key=lambda variant: variant.info.version, reverse=True)
