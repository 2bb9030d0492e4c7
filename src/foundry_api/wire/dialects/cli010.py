"""The dialect of the CLI 0.10 server, known from recordings of its users only."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NoReturn

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import (
    CatalogUnavailable,
    ModelError,
    ModelLoadFailed,
    ProtocolError,
    RouteNotFound,
    ServerError,
    UnsupportedFeature,
)
from foundry_api.types.messages import ChatRequest, Message
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    parse_error,
)
from foundry_api.wire.dialects.csharp import IDS_DECODER, LISTING_DECODER, CSharpDialect
from foundry_api.wire.dialects.model_ids import guess_aliases, strip_version
from foundry_api.wire.transport import OK, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.wire.dialects.base import Catalog, ModelCommand, ServiceClient

__all__ = ["Cli010Dialect"]


class Cli010Dialect(CSharpDialect):
    """The dialect of the CLI 0.10 server.

    Models are managed over the SDK's routes if the server has them, else with the user's `foundry`.
    """

    service_generation: ServiceGeneration = "cli-0.10"
    _has_finish_reasons = False  # 0.8 does not, SDK 1.0 does; for 0.10 it is unknown
    _accepts_tools = False  # unknown, too

    def __init__(self, client: ServiceClient) -> None:
        super().__init__(client)
        self.capabilities = CAPABILITIES[self.service_generation]
        self._has_model_routes: bool | None = None
        self._command_available = False
        self._answered_ids: set[str] = set()

    async def get_status(self) -> ServiceStatus:
        # There is no status route. A service that cannot reach its catalog is still alive.
        with contextlib.suppress(CatalogUnavailable):
            await self._client.get("/v1/models", timeout_s=QUICK_TIMEOUT_S)
        return ServiceStatus(self.service_generation)

    async def list_local_models(self) -> list[Model]:
        if command := await self._get_command():
            return [model for model in await command.list_models() if model.cached or model.loaded]
        try:
            return await self._list_models()
        except CatalogUnavailable:  # as with SDK 1.x, only models in memory are known then
            return [
                Model(
                    id=model_id,
                    alias=guess_aliases(model_id)[0],
                    catalog="public",
                    cached=True,
                    loaded=True,
                )
                for model_id in sorted(await self.get_loaded_ids())
            ]

    async def list_public_models(self) -> Sequence[Model]:
        command = await self._get_command()
        if command is None:
            return await self._list_models()
        if not (models := await command.list_models()):
            raise CatalogUnavailable(
                "`foundry` lists no models: it could not reach the catalog",
                service=self._client.base_url,
            )
        return models

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Return the loaded models; if neither route nor command exists, those that answered."""
        if catalog == "local":  # there is none
            return frozenset()
        if await self._check_model_routes():
            ids = await self._client.get_json(
                "/models/loaded", IDS_DECODER, timeout_s=QUICK_TIMEOUT_S
            )
            return frozenset(ids)
        if command := await self._get_command():
            return await command.get_loaded_ids()
        return frozenset(self._answered_ids)

    async def load(self, model: Model) -> None:
        """Load a model over HTTP or with `foundry`; without either, check that it is loaded."""
        if await self._check_model_routes():
            try:
                await self._client.get(f"/models/load/{model.id}", timeout_s=LOAD_TIMEOUT_S)
            except ServerError as error:
                raise ModelLoadFailed(
                    f"the service could not load the model: {error.message}",
                    model=model.id,
                    service=self._client.base_url,
                ) from error
        elif command := await self._get_command():
            await command.load(model.id)
        else:
            await self._load_by_probe(model)

    async def unload(self, model: Model) -> None:
        if await self._check_model_routes():
            await self._client.get(f"/models/unload/{model.id}", timeout_s=LOAD_TIMEOUT_S)
        elif command := await self._get_command():
            await command.unload(model.id)
        else:
            self._raise_unsupported("unload", model)

    async def download(self, model: Model) -> AsyncGenerator[float, None]:
        command = await self._get_command()
        if command is None:
            self._raise_unsupported("download", model)
        async with contextlib.aclosing(command.download(model.id)) as percentages:
            async for percent in percentages:
                yield percent

    async def _check_model_routes(self) -> bool:
        """Return whether the server has the SDK's model routes, which the first call finds out."""
        if self._has_model_routes is None:
            try:
                await self._client.get_json(
                    "/models/loaded", IDS_DECODER, timeout_s=QUICK_TIMEOUT_S
                )
                self._has_model_routes = True
            except (RouteNotFound, ProtocolError):
                self._has_model_routes = False
        return self._has_model_routes

    async def _get_command(self) -> ModelCommand | None:
        command = self._client.command
        if command is not None and not self._command_available:
            self._command_available = await command.is_available()
        return command if self._command_available else None

    async def _list_models(self) -> list[Model]:
        loaded = await self.get_loaded_ids()
        listing = await self._client.get_json(
            "/v1/models", LISTING_DECODER, timeout_s=CATALOG_TIMEOUT_S
        )
        # `/v1/models` leaves out the version, which inference requires.
        full = {strip_version(model_id): model_id for model_id in loaded}
        return [
            Model(
                id=(model_id := full.get(item.id, item.id)),
                alias=item.parent or strip_version(item.id),
                catalog="public",
                cached=True,
                loaded=model_id in loaded,
            )
            for item in listing.data
        ]

    async def _load_by_probe(self, model: Model) -> None:
        # Generating one token is the only way to find out whether a model is loaded.
        probe = ChatRequest(messages=(Message("user", "Hi"),), max_tokens=1)
        request = self.build_non_streaming_request(model, probe)
        response = await fetch(self._client.transport, request, timeout_s=LOAD_TIMEOUT_S)
        if response.status != OK:
            error = parse_error(response).with_context(
                model=model.id, service=self._client.base_url
            )
            if not isinstance(error, ModelError):
                raise error
            self._raise_unsupported("load", model, error)
        self._answered_ids.add(model.id)

    def _raise_unsupported(
        self, verb: str, model: Model, cause: ModelError | None = None
    ) -> NoReturn:
        raise UnsupportedFeature(
            f"the service has no route to {verb} a model, and no `foundry` here manages it",
            hint=f"Run `foundry model {verb} {model.id}` on its machine, then call again.",
            model=model.id,
            service=self._client.base_url,
        ) from cause
