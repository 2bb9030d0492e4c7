"""Imported models on the disk: where they are, and what they were made from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foundry_api._version import __version__
from foundry_api.model_import.types import Precision
from foundry_api.storage.paths import Paths
from foundry_api.storage.private_file import read_file
from foundry_api.types.errors import ModelError
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.types.models import Model

__all__ = [
    "MAX_RECORD_BYTES",
    "RECORD",
    "ImportRecord",
    "delete_imported",
    "find_imported",
    "get_default_output",
    "read_record",
]

RECORD = "foundry_import.json"
MAX_RECORD_BYTES = 2**20


class ImportRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a directory was made from. It stands in the directory as foundry_import.json.

    Attributes:
        source: The path of the source.
        digest: Identifies the files of the source.
        builder: Identifies the packages and the program that converted it.
        precision: The type of the weights.
        architecture: The class of the model.
        agreement: For each prompt of the check, how many tokens agreed, and how many were compared;
            empty if it was not checked.
        version: The version of foundry-api.
    """

    source: str
    digest: str
    builder: str
    precision: Precision
    architecture: str
    agreement: tuple[tuple[int, int], ...] = ()
    version: str = __version__

    def is_same_model(self, other: ImportRecord) -> bool:
        return (self.digest, self.precision) == (other.digest, other.precision)


def read_record(directory: Path) -> ImportRecord | None:
    """Return what a directory was imported from; None if it was not imported."""
    try:
        return msgspec.json.decode(
            read_file(directory / RECORD, MAX_RECORD_BYTES), type=ImportRecord
        )
    except (OSError, *NOT_JSON):
        return None


def get_default_output(alias: str, home: Path | None) -> Path:
    """Return the directory of an imported model without an output of the user."""
    # Some file systems ignore case, as the engine does for aliases.
    return Paths.from_home(home).data / "imported" / alias.casefold()


def find_imported(model: Model, models: Iterable[Model], home: Path | None) -> Path | None:
    """Return the directory of an imported model.

    None if it is an output of the user, or another one of `models` has the same directory.
    """
    if model.catalog != "local" or model.path is None:
        return None
    directory = Path(model.path)
    is_ours = directory.parent == get_default_output("x", home).parent
    is_shared = any(other.path == model.path and other.id != model.id for other in models)
    return directory if is_ours and not is_shared and read_record(directory) else None


def delete_imported(directory: Path) -> int:
    """Delete a directory and return how many bytes that freed."""
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    try:
        shutil.rmtree(directory)
    except OSError as error:
        raise ModelError(
            f"the model is no longer registered, but {directory} cannot be deleted"
            f" ({error.strerror or error})",
            hint="Delete the directory yourself.",
        ) from error
    return size
