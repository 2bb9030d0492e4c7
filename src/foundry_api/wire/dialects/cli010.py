"""The dialect of the 0.10 command line's server: recorded by its users, never probed.

What is peculiar to it: of the legacy routes none is left, and whether the SDK's are there is not
known, so the service is asked once. Where they are not, the user's own `foundry` manages the
models, as it does for the user. Inference wants the id with its version, which `/v1/models` leaves
out and `foundry` tells.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NoReturn

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import (
    CatalogUnavailable,
    ModelError,
    ModelLoadFailed,
    ProtocolError,
    RouteMissing,
    ServerError,
    UnsupportedFeature,
)
from foundry_api.types.messages import ChatRequest, Message, Model
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    error_of,
)
from foundry_api.wire.dialects.csharp import IDS, LISTING, CSharpDialect
from foundry_api.wire.dialects.model_ids import aliases_of, without_version
from foundry_api.wire.transport import fetch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from foundry_api.types.messages import Generation
    from foundry_api.wire.dialects.base import Catalog, ModelCommand, Wire

__all__ = ["Cli010Dialect"]


_OK = 200


class Cli010Dialect(CSharpDialect):
    """Speaks to one server of the 0.10 command line.

    Args:
        wire: How to reach it, with the command that manages it, if there is one.
    """

    generation: Generation = "cli-0.10"
    _says_why = False  # 0.8 did not, SDK 1.0 does; of 0.10 it is not known
    _knows_tools = False  # as little known

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.capabilities = CAPABILITIES[self.generation]
        self._has_routes: bool | None = None
        self._command_is_there = False
        self._answered: set[str] = set()

    async def status(self) -> ServiceStatus:
        """Liveness. There is no route for it, and a catalog out of reach is no death."""
        with contextlib.suppress(CatalogUnavailable):
            await self._wire.get("/v1/models", timeout_s=QUICK_TIMEOUT_S)
        return ServiceStatus(self.generation)

    async def local_models(self) -> list[Model]:
        """Models whose files are there, as `foundry` tells them, else as `/v1/models` does.

        Where that fails without the remote catalog, as in SDK 1.x, those in memory alone.
        """
        if command := await self._command():
            return [model for model in await command.models() if model.cached or model.loaded]
        try:
            return await self._models()
        except CatalogUnavailable:
            return [
                Model(
                    id=model_id,
                    alias=aliases_of(model_id)[0],
                    catalog="public",
                    cached=True,
                    loaded=True,
                )
                for model_id in sorted(await self.loaded())
            ]

    async def public_models(self) -> Sequence[Model]:
        """Models of the catalog, as `foundry` tells them; the service tells of no others.

        Raises:
            CatalogUnavailable: It could not be reached.
        """
        command = await self._command()
        if command is None:
            return await self._models()
        if not (models := await command.models()):
            raise CatalogUnavailable(
                "`foundry` lists no models: it could not reach the catalog",
                service=self._wire.base_url,
            )
        return models

    async def loaded(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Ids of the models in memory; where nobody tells, of those that answered here."""
        if catalog == "local":  # there is none
            return frozenset()
        if await self._routes():
            ids = await self._wire.get_json("/models/loaded", IDS, timeout_s=QUICK_TIMEOUT_S)
            return frozenset(ids)
        if command := await self._command():
            return await command.loaded()
        return frozenset(self._answered)

    async def load(self, model: Model) -> None:
        """Load a model over HTTP or by `foundry`; without either, see whether it is loaded.

        Raises:
            ModelLoadFailed: It could not be loaded.
            UnsupportedFeature: It is not loaded, and there is no way to load it from here.
        """
        if await self._routes():
            await self._load_over_http(model)
        elif command := await self._command():
            await command.load(model.id)
        else:
            await self._see_whether_it_answers(model)

    async def unload(self, model: Model) -> None:
        """Unload a model over HTTP or by `foundry`.

        Raises:
            UnsupportedFeature: There is no way to do it from here.
        """
        if await self._routes():
            await self._wire.get(f"/models/unload/{model.id}", timeout_s=LOAD_TIMEOUT_S)
        elif command := await self._command():
            await command.unload(model.id)
        else:
            self._refuse("unload", model)

    async def download(self, model: Model) -> AsyncGenerator[float, None]:
        """Have `foundry` download a model. Closing the generator ends the command.

        Raises:
            DownloadFailed: It broke off, or the model is not listed as cached after it.
            UnsupportedFeature: There is no `foundry` here that manages this service.
        """
        command = await self._command()
        if command is None:
            self._refuse("download", model)
        async with contextlib.aclosing(command.download(model.id)) as steps:
            async for percent in steps:
                yield percent

    async def _routes(self) -> bool:
        """Whether the SDK's routes for models are there. It is asked once."""
        if self._has_routes is None:
            try:
                await self._wire.get_json("/models/loaded", IDS, timeout_s=QUICK_TIMEOUT_S)
                self._has_routes = True
            except (RouteMissing, ProtocolError):
                self._has_routes = False
        return self._has_routes

    async def _command(self) -> ModelCommand | None:
        command = self._wire.command
        if command is not None and not self._command_is_there:
            self._command_is_there = await command.available()
        return command if self._command_is_there else None

    async def _models(self) -> list[Model]:
        loaded = await self.loaded()
        listing = await self._wire.get_json("/v1/models", LISTING, timeout_s=CATALOG_TIMEOUT_S)
        full = {without_version(model_id): model_id for model_id in loaded}
        return [
            Model(
                id=(model_id := full.get(item.id, item.id)),
                alias=item.parent or without_version(item.id),
                catalog="public",
                cached=True,
                loaded=model_id in loaded,
            )
            for item in listing.data
        ]

    async def _load_over_http(self, model: Model) -> None:
        try:
            await self._wire.get(f"/models/load/{model.id}", timeout_s=LOAD_TIMEOUT_S)
        except ServerError as error:
            raise ModelLoadFailed(
                f"the service could not load it: {error.message}",
                model=model.id,
                service=self._wire.base_url,
            ) from error

    async def _see_whether_it_answers(self, model: Model) -> None:
        """Ask for one token: nothing else tells whether a model is loaded."""
        probe = ChatRequest(messages=(Message("user", "Hi"),), max_tokens=1)
        request = self.plain_request(model, probe)
        reply = await fetch(self._wire.transport, request, timeout_s=LOAD_TIMEOUT_S)
        if reply.status != _OK:
            error = error_of(reply).located(model=model.id, service=self._wire.base_url)
            if not isinstance(error, ModelError):
                raise error
            self._refuse("load", model, error)
        self._answered.add(model.id)

    def _refuse(self, verb: str, model: Model, cause: ModelError | None = None) -> NoReturn:
        raise UnsupportedFeature(
            f"the service has no route to {verb} a model, and no `foundry` here manages it",
            hint=f"Run `foundry model {verb} {model.id}` on its machine, then call again.",
            model=model.id,
            service=self._wire.base_url,
        ) from cause
