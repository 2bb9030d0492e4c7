"""The dialect of SDK 1.x: a C# core behind Kestrel, probed on version 1.2.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import CatalogUnavailable, ModelLoadFailed, ModelNotFound, ServerError
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    refuse_download,
)
from foundry_api.wire.dialects.csharp import (
    IDS_DECODER,
    LISTING_DECODER,
    CSharpDialect,
    ListedModel,
)
from foundry_api.wire.dialects.model_ids import strip_version

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.wire.dialects.base import Catalog, ServiceClient

__all__ = ["Sdk1Dialect"]


class _Status(msgspec.Struct):
    cache_dir: str = msgspec.field(name="modelDirPath")


_STATUS = msgspec.json.Decoder(_Status)


class Sdk1Dialect(CSharpDialect):
    """The dialect of SDK 1.x."""

    service_generation: ServiceGeneration = "sdk-1"

    def __init__(self, client: ServiceClient) -> None:
        super().__init__(client)
        self.capabilities = CAPABILITIES[self.service_generation]

    async def get_status(self) -> ServiceStatus:
        status = await self._client.get_json("/status", _STATUS, timeout_s=QUICK_TIMEOUT_S)
        return ServiceStatus(self.service_generation, cache_dir=status.cache_dir)

    async def list_local_models(self) -> list[Model]:
        loaded = await self.get_loaded_ids()
        try:
            return await self._list_cached(loaded)
        except CatalogUnavailable:
            # Without its remote catalog the service does not list cached models either.
            return [_make_model(ListedModel(model_id), loaded) for model_id in sorted(loaded)]

    async def list_public_models(self) -> list[Model]:
        # The service lists only cached models.
        return await self._list_cached(await self.get_loaded_ids())

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        if catalog == "local":  # there is none
            return frozenset()
        ids = await self._client.get_json("/models/loaded", IDS_DECODER, timeout_s=QUICK_TIMEOUT_S)
        # Here the ids have a version, in `/v1/models` they have none.
        return frozenset(strip_version(model_id) for model_id in ids)

    async def load(self, model: Model) -> None:
        try:
            await self._client.get(f"/models/load/{model.id}", timeout_s=LOAD_TIMEOUT_S)
        except ServerError as error:
            # Any failure is a 500 without a body. The list of models shows whether it is known.
            raise await self._find_load_error(model) from error

    async def unload(self, model: Model) -> None:
        # Unloading a model that is generating kills the service with SIGSEGV. Callers drain first.
        await self._client.get(f"/models/unload/{model.id}", timeout_s=LOAD_TIMEOUT_S)

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        del model
        return refuse_download(self._client)

    async def _list_cached(self, loaded: frozenset[str]) -> list[Model]:
        listing = await self._client.get_json(
            "/v1/models", LISTING_DECODER, timeout_s=CATALOG_TIMEOUT_S
        )
        return [_make_model(item, loaded) for item in listing.data]

    async def _find_load_error(
        self, model: Model
    ) -> ModelLoadFailed | ModelNotFound | CatalogUnavailable:
        try:
            known_ids = {listed.id for listed in await self.list_public_models()}
        except CatalogUnavailable as error:
            return error
        if model.id not in known_ids:
            return ModelNotFound(
                "the service does not know the model", model=model.id, service=self._client.base_url
            )
        return ModelLoadFailed(
            "the service could not load the model, and its generation does not report why",
            model=model.id,
            service=self._client.base_url,
        )


def _make_model(item: ListedModel, loaded: frozenset[str]) -> Model:
    name = strip_version(item.id)
    alias = item.parent or name
    return Model(id=name, alias=alias, catalog="public", cached=True, loaded=name in loaded)
