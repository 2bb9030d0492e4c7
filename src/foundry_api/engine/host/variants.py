"""Converts the SDK's model variants and errors to this package's types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_api.engine.models.registry_file import SOURCE
from foundry_api.types.errors import FoundryError, ModelInUse
from foundry_api.types.models import Model
from foundry_api.wire.errors import classify, clean_message

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DEVICE",
    "DIGEST",
    "find_matching",
    "get_digest",
    "get_directory",
    "to_model",
    "translate_error",
]

# This package's own properties of a registration. The engine keeps properties it does not know.
DIGEST = "foundry_api_digest"
DEVICE = "foundry_api_device"


# The SDK is not imported here, so its objects are typed as Any.
def to_model(variant: Any, *, public: bool) -> Model:
    info = variant.info
    runtime = info.runtime
    device = runtime.device_type if runtime else None
    source = info.get_string_property(SOURCE)
    cached = variant.is_cached and (source is None or Path(source).is_dir())
    return Model(
        id=info.id,
        alias=info.alias,
        catalog="public" if public else "local",
        cached=cached,
        loaded=variant.is_loaded,
        task=info.task,
        device=str(device) if device else info.get_string_property(DEVICE),
        size_mb=info.file_size_mb,
        context_length=info.context_length,
        license=info.license,
        publisher=info.publisher if public else None,  # `local` for local models
        max_output_tokens=info.max_output_tokens,
        supports_tools=info.supports_tool_calling,
        execution_provider=(runtime.execution_provider or None) if runtime else None,
        base_model=info.get_string_property("parent_uri"),
        path=(source or variant.get_path() or None) if cached else None,
    )


def get_directory(variant: Any) -> Path:
    """Return the directory that was registered, which may be gone."""
    # The engine returns nothing once its directory is gone.
    return Path(variant.info.get_string_property(SOURCE) or variant.get_path() or "missing")


def get_digest(variant: Any) -> str | None:
    """Return the digest that the files of a model had when it was registered."""
    digest: str | None = variant.info.get_string_property(DIGEST)
    return digest


def find_matching(variants: Iterable[Any], name: str) -> list[Any]:
    """Find the variants with a name: those with that id first, then id without version, alias."""
    folded_name = name.casefold()
    ranked: list[tuple[int, Any]] = []
    for variant in variants:
        info = variant.info
        names = (info.id, info.id.rpartition(":")[0], info.alias)
        folded = [known.casefold() for known in names]
        if folded_name in folded:
            ranked.append((folded.index(folded_name), variant))
    return [variant for _, variant in sorted(ranked, key=lambda pair: pair[0])]


def translate_error(error: Exception) -> FoundryError:
    """Convert an exception of the SDK."""
    message = clean_message(str(error))
    if "unload it first" in message:
        return ModelInUse(message, hint="Unload it first.")
    return classify(500, message)
