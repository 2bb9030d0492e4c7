"""The model catalog of a CLI service up to 0.9, read as foundry-local-sdk 0.5.1 reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.models import Model
from foundry_api.wire.dialects.model_ids import guess_aliases, parse_version, strip_version

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

__all__ = [
    "CATALOG_DECODER",
    "CatalogItem",
    "get_execution_provider",
    "make_download_body",
    "make_model",
    "resolve_id",
    "sort_variants",
]


class _Runtime(msgspec.Struct, rename="camel"):
    device_type: str | None = None
    execution_provider: str | None = None


class CatalogItem(msgspec.Struct, rename="camel"):
    """One variant of a model."""

    name: str
    alias: str | None = None
    uri: str | None = None
    publisher: str | None = None
    provider_type: str | None = None
    prompt_template: Any = None
    task: str | None = None
    runtime: _Runtime | None = None
    file_size_mb: float | None = None
    license: str | None = None


class _WrappedCatalog(msgspec.Struct):
    models: list[CatalogItem]


# The documentation shows an object, while the SDK reads a bare array.
CATALOG_DECODER: msgspec.json.Decoder[list[CatalogItem] | _WrappedCatalog] = msgspec.json.Decoder(
    list[CatalogItem] | _WrappedCatalog
)


def sort_variants(
    listing: list[CatalogItem] | _WrappedCatalog, *, is_windows: bool
) -> list[CatalogItem]:
    """Return the variants, preferred ones first."""
    # The service sorts them: NPU, vendor's GPU, generic GPU, vendor's CPU, CPU. On Windows, its SDK
    # prefers the CPU to a generic GPU, unless there is CUDA.
    items = list(listing.models if isinstance(listing, _WrappedCatalog) else listing)
    if not is_windows or _has_cuda(items):
        return items
    for first in {item.alias: item for item in reversed(items)}.values():
        siblings = (item for item in items if item.alias == first.alias)
        cpu = next((item for item in siblings if _get_device(item) == "CPU"), None)
        if _is_generic_gpu(first.name) and cpu is not None:
            items.remove(cpu)
            items.insert(items.index(first), cpu)
    return items


def get_execution_provider(model_id: str, items: Sequence[CatalogItem]) -> str | None:
    """Return the execution provider to load a model with, or None for its default."""
    # The SDK runs generic GPU variants on CUDA if the catalog shows that CUDA is available.
    return "cuda" if _is_generic_gpu(model_id) and _has_cuda(items) else None


def resolve_id(name: str, items: Iterable[CatalogItem]) -> str:
    """Return the id for a name in the service's lists, which may lack the version."""
    # The SDK's order: exact id, highest version of an id without one, alias.
    lowercase_name = name.lower()
    items = list(items)
    if exact := [item.name for item in items if item.name.lower() == lowercase_name]:
        return exact[0]
    if versions := [
        item.name for item in items if strip_version(item.name).lower() == lowercase_name
    ]:
        return max(versions, key=parse_version)
    return next((item.name for item in items if (item.alias or "").lower() == lowercase_name), name)


def make_model(item: CatalogItem, *, cached: Container[str], loaded: Container[str]) -> Model:
    return Model(
        id=item.name,
        alias=item.alias or guess_aliases(item.name)[0],
        catalog="public",
        cached=item.name in cached or item.name in loaded,
        loaded=item.name in loaded,
        task=item.task,
        device=_get_device(item),
        size_mb=None if item.file_size_mb is None else round(item.file_size_mb),
        license=item.license,
    )


def make_download_body(item: CatalogItem) -> dict[str, Any]:
    """Build the body of `POST /openai/download` as the SDK does."""
    provider = item.provider_type
    return {
        "model": {
            "Name": item.name,
            "Uri": item.uri,
            "Publisher": item.publisher,
            # The catalog says AzureFoundry, but the route accepts only this name.
            "ProviderType": "AzureFoundryLocal" if provider == "AzureFoundry" else provider,
            "PromptTemplate": item.prompt_template,
        },
        "token": None,
        "IgnorePipeReport": True,
    }


def _get_device(item: CatalogItem) -> str | None:
    device = item.runtime.device_type if item.runtime else None
    return device.upper() if device else None


def _has_cuda(items: Iterable[CatalogItem]) -> bool:
    return any(
        item.runtime is not None and item.runtime.execution_provider == "CUDAExecutionProvider"
        for item in items
    )


def _is_generic_gpu(model_id: str) -> bool:
    return strip_version(model_id).lower().endswith("-generic-gpu")
