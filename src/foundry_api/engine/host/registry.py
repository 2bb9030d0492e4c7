"""The engine's local catalog: model directories registered under an alias, with versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_api.engine.host import log
from foundry_api.engine.host.variants import (
    DEVICE,
    DIGEST,
    get_digest,
    get_directory,
    to_model,
    translate_error,
)
from foundry_api.engine.models.directory import ModelFiles, compute_digest
from foundry_api.engine.models.registry_file import SOURCE
from foundry_api.engine.models.task import detect_task
from foundry_api.engine.models.validate import check_alias, validate
from foundry_api.storage.lock import LockTimeout
from foundry_api.types.errors import FoundryError, ModelRegistrationFailed
from foundry_api.wire.errors import clean_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from foundry_api.engine.handshake import ModelSource
    from foundry_api.engine.models.tuning import TunedDirectories
    from foundry_api.types.models import Model

__all__ = ["Registry"]

# How often another host may take the version that this one was about to register.
MAX_RETRIES = 20


class Registry:
    """Registers and unregisters model directories.

    `failure` is the exception type of the SDK, `builder` creates the SDK's metadata object, and
    `tuned` makes the directories that the engine gets.
    """

    # The engine stores the registrations in a file which all hosts of one home directory share and
    # see at once. It refuses an id that is taken, which decides races between hosts.

    def __init__(
        self,
        catalog: Any,
        builder: Callable[[], Any],
        failure: type[Exception],
        tuned: TunedDirectories,
    ) -> None:
        self._catalog = catalog
        self._builder = builder
        self._failure = failure
        self._tuned = tuned

    def register(self, directory: Path, alias: str) -> Model:
        """Register a directory, as a new version if its files or its place changed."""
        check_alias(alias)
        files = validate(directory)
        return self._ensure_newest(files, alias, None, lambda path: path == files.directory)

    def ensure_registered(self, source: ModelSource) -> Model:
        """Register a model at the start of a host, unless any host has registered its files."""
        # Two installations may share a home directory, each with its own copy of the demo model. A
        # version with the same files serves both, wherever they are.
        files = ModelFiles.read(Path(source.path))
        return self._ensure_newest(
            files, source.alias, source.license, lambda path: compute_digest(path) == files.digest
        )

    def unregister(self, name: str) -> None:
        """Unregister an alias or one of its ids."""
        try:
            self._catalog.unregister_model(name)
        except self._failure as error:
            raise translate_error(error) from error
        self._remove_unused()

    def update_tuned(self) -> None:
        """Apply this host's settings to all registered directories."""
        lost: dict[str, Any] = {}
        for variant in sorted(self.list_variants(), key=lambda variant: variant.info.version):
            is_served = self._update(variant)
            lost[variant.info.alias.casefold()] = None if is_served else variant
        # Such as after the home directory was moved.
        for variant in filter(None, lost.values()):
            try:
                self.register(get_directory(variant), variant.info.alias)
            except FoundryError as error:
                log.write_line(f"{variant.info.id} cannot be registered again: {error}")

    def _update(self, variant: Any) -> bool:
        """Apply this host's settings to a registered directory; return if the engine finds it."""
        source = variant.info.get_string_property(SOURCE)
        if source is None:
            return True
        try:
            self._tuned.update(Path(source), size_mb=variant.info.file_size_mb or 0)
        except (OSError, ModelRegistrationFailed) as error:
            log.write_line(f"{variant.info.id} keeps its settings: {error}")
        return _is_found(variant)

    def list_variants(self) -> Iterator[Any]:
        try:
            for model in self._catalog.list_models():
                yield from model.variants
        except self._failure as error:
            raise translate_error(error) from error

    def _ensure_newest(
        self,
        files: ModelFiles,
        alias: str,
        license_name: str | None,
        is_same_place: Callable[[Path], bool],
    ) -> Model:
        """Return the newest version if it serves these files, else register one more version."""
        for _ in range(MAX_RETRIES):
            versions = self._list_versions(alias)
            newest = versions[0] if versions else None
            if (
                newest
                and get_digest(newest) == files.digest
                and is_same_place(get_directory(newest))
                and self._update(newest)
            ):
                return to_model(newest, public=False)
            name, version = (newest.info.alias, newest.info.version + 1) if newest else (alias, 1)
            if added := self._add(files, f"{name}:{version}", license_name):
                self._remove_stale(versions)
                self._remove_unused()
                return to_model(added, public=False)
        raise ModelRegistrationFailed(
            "other hosts keep registering the same name", model=alias, hint="Try again."
        )

    def _add(self, files: ModelFiles, model_id: str, license_name: str | None) -> Any | None:
        """Register a version. Return None if another host has registered it before."""
        metadata = self._make_metadata(files, license_name)
        try:
            with self._tuned.lock():
                directory = self._make_tuned(files)
                if directory != files.directory:
                    metadata.set_string_property(SOURCE, str(files.directory))
                return self._catalog.register_model(directory, model_id, metadata)
        except LockTimeout as error:
            raise ModelRegistrationFailed(str(error), model=model_id, hint="Try again.") from error
        except self._failure as error:
            if "already registered" in str(error):
                return None
            raise ModelRegistrationFailed(clean_message(str(error)), model=model_id) from error
        finally:
            metadata.close()

    def _make_tuned(self, files: ModelFiles) -> Path:
        """Return the directory to register: one with settings for speed, or the user's own."""
        try:
            return self._tuned.make(files.directory, size_mb=files.size_mb)
        except OSError as error:
            log.write_line(f"{files.directory} is served without settings for speed: {error}")
            return files.directory

    def _remove_unused(self) -> None:
        """Remove the directories with settings for speed that no registration needs."""
        try:
            with self._tuned.lock():
                used = {Path(variant.get_path() or "") for variant in self.list_variants()}
                self._tuned.remove_unused(used)
        except (OSError, LockTimeout, FoundryError) as error:  # they are removed the next time
            log.write_line(f"directories without use stay: {error}")

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
        """Unregister versions whose files are gone or changed."""
        for variant in versions:
            # A version whose files are unchanged may serve another host.
            if _is_found(variant) and compute_digest(get_directory(variant)) == get_digest(variant):
                continue
            try:
                self._catalog.unregister_model(variant.info.id)
            except self._failure as error:  # it is loaded, or another host unregistered it
                log.write_line(f"kept {variant.info.id}: {clean_message(str(error))}")

    def _list_versions(self, alias: str) -> list[Any]:
        """Return the registered versions of an alias, in any case, newest first."""
        folded_alias = alias.casefold()
        matches = [
            version
            for version in self.list_variants()
            if version.info.alias.casefold() == folded_alias
        ]
        return sorted(matches, key=lambda variant: variant.info.version, reverse=True)


def _is_found(variant: Any) -> bool:
    """Return whether the engine's own directory of a version is where it was registered."""
    return bool(variant.get_path())
