"""Inspects the source of an import before anything is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.model_import.gguf import inspect_gguf
from foundry_api.model_import.huggingface import inspect_directory
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    import os

    from foundry_api.model_import.types import ModelSource

__all__ = ["inspect_source"]


def inspect_source(source: str | os.PathLike[str]) -> ModelSource:
    """Read a source; ModelSourceUnsupported lists everything in it that cannot be converted.

    It reads headers and JSON files, no weights.
    """
    try:
        path = absolute_path(source)
    except ValueError as error:
        raise InvalidRequest(f"source is {source!r}: {error}", field="source") from error
    if path.is_dir():
        return inspect_directory(path)
    if path.is_file():
        return inspect_gguf(path)
    raise InvalidRequest(
        f"source is {str(source)!r}, where there is neither a directory nor a file",
        field="source",
        hint="Give a directory with a Hugging Face model, or a GGUF file, on this machine.",
    )
