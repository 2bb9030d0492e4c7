"""The dialect of SDK 1.x: a C# core behind Kestrel, probed on 1.2.4.

What is peculiar to it: `/v1/models` lists what is cached, by ids without their version, each with
its alias as `parent`, and a failed load is a 500 without a body. Unloading a model that generates
kills the service: callers drain first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import CatalogUnavailable, ModelLoadFailed, ModelNotFound, ServerError
from foundry_api.types.messages import Model
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    no_download,
)
from foundry_api.wire.dialects.csharp import IDS, LISTING, CSharpDialect, Listed
from foundry_api.wire.dialects.model_ids import without_version

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.types.messages import Generation
    from foundry_api.wire.dialects.base import Catalog, Wire

__all__ = ["Sdk1Dialect"]


class _Status(msgspec.Struct):
    cache_dir: str = msgspec.field(name="modelDirPath")


_STATUS = msgspec.json.Decoder(_Status)


class Sdk1Dialect(CSharpDialect):
    """Speaks to one service of SDK 1.x.

    Args:
        wire: How to reach it.
    """

    generation: Generation = "sdk-1"

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.capabilities = CAPABILITIES[self.generation]

    async def status(self) -> ServiceStatus:
        """Liveness. The service does not tell its process."""
        status = await self._wire.get_json("/status", _STATUS, timeout_s=QUICK_TIMEOUT_S)
        return ServiceStatus(self.generation, cache_dir=status.cache_dir)

    async def local_models(self) -> list[Model]:
        """Models whose files are there; without the remote catalog, those in memory alone."""
        loaded = await self.loaded()
        try:
            return await self._cached(loaded)
        except CatalogUnavailable:
            return [_model(Listed(model_id), loaded) for model_id in sorted(loaded)]

    async def public_models(self) -> list[Model]:
        """Models whose files are there: the service tells of no others.

        Raises:
            CatalogUnavailable: It could not reach its catalog, without which it lists nothing.
        """
        return await self._cached(await self.loaded())

    async def loaded(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Ids of the models in memory, without their version, as they are listed."""
        if catalog == "local":  # there is none
            return frozenset()
        ids = await self._wire.get_json("/models/loaded", IDS, timeout_s=QUICK_TIMEOUT_S)
        return frozenset(without_version(model_id) for model_id in ids)

    async def load(self, model: Model) -> None:
        """Load a model. Of a failure the service says nothing, so its list tells the kinds apart.

        Raises:
            ModelLoadFailed: It could not be loaded.
            ModelNotFound: The service does not know it.
        """
        try:
            await self._wire.get(f"/models/load/{model.id}", timeout_s=LOAD_TIMEOUT_S)
        except ServerError as error:
            raise await self._why_not(model) from error

    async def unload(self, model: Model) -> None:
        """Unload a model. While it generates, that kills the service: callers drain it first."""
        await self._wire.get(f"/models/unload/{model.id}", timeout_s=LOAD_TIMEOUT_S)

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        """There is no route for it.

        Raises:
            UnsupportedFeature: Always.
        """
        del model
        return no_download(self._wire)

    async def _cached(self, loaded: frozenset[str]) -> list[Model]:
        listing = await self._wire.get_json("/v1/models", LISTING, timeout_s=CATALOG_TIMEOUT_S)
        return [_model(item, loaded) for item in listing.data]

    async def _why_not(self, model: Model) -> ModelLoadFailed | ModelNotFound | CatalogUnavailable:
        try:
            known = {each.id for each in await self.public_models()}
        except CatalogUnavailable as error:
            return error
        if model.id not in known:
            return ModelNotFound(
                "the service knows no such model", model=model.id, service=self._wire.base_url
            )
        return ModelLoadFailed(
            "the service could not load it, and its generation does not say why",
            model=model.id,
            service=self._wire.base_url,
        )


def _model(item: Listed, loaded: frozenset[str]) -> Model:
    name = without_version(item.id)
    alias = item.parent or name
    return Model(id=name, alias=alias, catalog="public", cached=True, loaded=name in loaded)
