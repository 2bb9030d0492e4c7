"""The dialect of the CLI's service up to 0.9: documented, and recorded by its users, never probed.

What is peculiar to it: everything has a route, downloads too; models are named by their id
everywhere; a loaded model leaves memory after its `ttl` unused; finish reasons are not sent, nor,
from 0.8 on, counts of tokens, and an answer without a bound is cut at about 512.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import (
    CatalogUnavailable,
    DownloadFailed,
    FoundryError,
    ModelLoadFailed,
    ModelNotFound,
    ProtocolError,
    ServerError,
    ServiceError,
    StreamInterrupted,
)
from foundry_api.types.messages import Model
from foundry_api.wire.chat.stream import encode
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    error_of,
    folded,
)
from foundry_api.wire.dialects.csharp import IDS, CSharpDialect
from foundry_api.wire.dialects.legacy_catalog import (
    LISTING,
    Listed,
    download_body,
    ep_of,
    id_of,
    items_of,
    model_of,
)
from foundry_api.wire.dialects.model_ids import aliases_of
from foundry_api.wire.transport import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from foundry_api.types.messages import ChatRequest, Generation
    from foundry_api.wire.dialects.base import Catalog, Wire
    from foundry_api.wire.transport import Response

__all__ = ["MAX_LINE_BYTES", "LegacyDialect", "ProgressDecoder", "percent_of"]


MAX_LINE_BYTES = 64 * 1024
"""Bound of one line, and of the JSON at the end."""

_FRACTION = re.compile(rb"^\(.*,\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*\)$")
_PERCENT = re.compile(rb"(\d{1,3}(?:\.\d+)?)\s?%")


class ProgressDecoder:
    """Decodes the body of one download."""

    def __init__(self) -> None:
        self._rest = b""
        self._result = b""

    def feed(self, block: bytes) -> Iterator[float]:
        """The percentages, 0 to 100, that this block completes.

        Of the documentation's form they are those of one file after the other.

        Raises:
            ProtocolError: A line is larger than the bound.
        """
        *lines, self._rest = (self._rest + block.replace(b"\r", b"\n")).split(b"\n")
        for line in lines:
            yield from self._line(line)
        if len(self._rest) > MAX_LINE_BYTES or len(self._result) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of the download is larger than {MAX_LINE_BYTES} bytes")

    def finish(self) -> None:
        """Return if the service said that it has the model.

        Raises:
            DownloadFailed: It said that it has not, or nothing.
        """
        for _ in self._line(self._rest):
            pass
        told = folded(self._result)
        if not told:
            raise DownloadFailed("the download broke off before the service said that it is done")
        if told.get("success") is not True:
            why = told.get("errormessage") or told.get("error") or "the service does not say why"
            raise DownloadFailed(f"the service could not download it: {why}")

    def _line(self, line: bytes) -> Iterator[float]:
        line = line.strip()
        if self._result or line.startswith(b"{"):
            self._result += line
        elif (percent := percent_of(line)) is not None:
            yield percent


def percent_of(line: bytes) -> float | None:
    """The percentage that a line tells, 0 to 100; None if it tells none."""
    if found := _FRACTION.search(line):
        return min(100.0 * float(found[1]), 100.0)
    found = _PERCENT.search(line)
    return min(float(found[1]), 100.0) if found else None


TTL_S = 600
"""How long a model stays in memory unused: the service's own default, and what its SDK asks for."""

DETAILS_TIMEOUT_S = 15.0
"""For the catalog where it is nice to have: a service without network asks for it in vain."""

STALL_TIMEOUT_S = 300.0
"""How long a download may say nothing before it is given up."""

ERROR_BODY_BYTES = 64 * 1024
_OK = 200


class LegacyDialect(CSharpDialect):
    """Speaks to one service of the CLI up to 0.9.

    Args:
        wire: How to reach it.
        windows: Whether an alias prefers the CPU to a generic GPU, as on Windows.
    """

    generation: Generation = "legacy"
    _says_why = False
    _default_limit = 512
    _knows_tools = False  # whether it does is not known

    def __init__(self, wire: Wire, *, windows: bool = sys.platform == "win32") -> None:
        super().__init__(wire)
        self.capabilities = CAPABILITIES[self.generation]
        self._windows = windows
        self._catalog: Sequence[Listed] | None = None

    async def status(self) -> ServiceStatus:
        """Liveness. The service does not tell its process; the case of its keys varies."""
        told = folded(await self._wire.get("/openai/status", timeout_s=QUICK_TIMEOUT_S))
        cache = told.get("modeldirpath")
        return ServiceStatus(self.generation, cache_dir=cache if isinstance(cache, str) else None)

    async def local_models(self) -> list[Model]:
        """Models whose files are there, with what the catalog told of them last.

        The catalog is asked once for it; a service that cannot reach it still lists its models, by
        aliases that are guessed from their ids.
        """
        items = await self._details()
        cached, loaded = await asyncio.gather(self._ids("/openai/models"), self.loaded())
        here = cached | loaded
        listed = {item.name for item in items}
        return [
            *(model_of(item, cached=cached, loaded=loaded) for item in items if item.name in here),
            *(_unlisted(model_id, loaded) for model_id in sorted(here - listed)),
        ]

    async def public_models(self) -> list[Model]:
        """Models of Microsoft's catalog.

        Raises:
            CatalogUnavailable: It could not be reached: the service says so, or lists nothing.
        """
        items = await self._listed(CATALOG_TIMEOUT_S)
        cached, loaded = await asyncio.gather(self._ids("/openai/models"), self.loaded())
        return [model_of(item, cached=cached, loaded=loaded) for item in items]

    async def loaded(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Ids of the models in memory."""
        if catalog == "local":  # there is none
            return frozenset()
        return await self._ids("/openai/loadedmodels")

    async def load(self, model: Model) -> None:
        """Load a model, to stay until it was not used for ten minutes.

        Raises:
            ModelNotCached: Its files are not there.
            ModelLoadFailed: It could not be loaded.
        """
        ep = ep_of(model.id, self._catalog or ())
        query = f"ttl={TTL_S}" if ep is None else f"ttl={TTL_S}&ep={ep}"
        try:
            await self._wire.get(
                f"/openai/load/{_quoted(model.id)}?{query}", timeout_s=LOAD_TIMEOUT_S
            )
        except ServerError as error:
            raise ModelLoadFailed(
                f"the service could not load it: {error.message}",
                model=model.id,
                service=self._wire.base_url,
                status=error.status,
            ) from error

    async def unload(self, model: Model) -> None:
        """Unload a model at once. The route fails for one that is not there, so that is asked."""
        if model.id in await self.loaded():
            path = f"/openai/unload/{_quoted(model.id)}?force=true"
            await self._wire.get(path, timeout_s=LOAD_TIMEOUT_S)

    async def download(self, model: Model) -> AsyncGenerator[float, None]:
        """Download a model's files. The service may go on when its caller leaves (issue 365).

        Raises:
            CatalogUnavailable: The catalog, which tells where the files are, could not be reached.
            DownloadFailed: It broke off, or the service does not have the model after it.
            ModelNotFound: The catalog has no such model.
        """
        body = download_body(await self._item(model))
        response = await self._wire.transport.send(
            self._wire.post("/openai/download", encode(body))
        )
        try:
            if response.status != _OK:
                raise await _refusal(response)
            decoder = ProgressDecoder()
            while block := await _block(response):
                for percent in decoder.feed(block):
                    yield percent
            decoder.finish()
        except FoundryError as error:
            error.located(model=model.id, service=self._wire.base_url)
            raise
        finally:
            response.close()
        await self._check_arrival(model)

    def _body(self, model: Model, request: ChatRequest) -> dict[str, Any]:
        body = super()._body(model, request)
        if request.seed is not None:
            body["random_seed"] = request.seed  # the name that the documentation has for it
        return body

    async def _ids(self, path: str) -> frozenset[str]:
        names = await self._wire.get_json(path, IDS, timeout_s=QUICK_TIMEOUT_S)
        return frozenset(id_of(name, self._catalog or ()) for name in names)

    async def _listed(self, timeout_s: float) -> Sequence[Listed]:
        try:
            listing = await self._wire.get_json("/foundry/list", LISTING, timeout_s=timeout_s)
        except ServerError as error:
            raise self._unavailable(error.message) from error
        if not (items := items_of(listing, windows=self._windows)):
            raise self._unavailable("it is empty")
        self._catalog = items
        return items

    async def _details(self) -> Sequence[Listed]:
        if self._catalog is None:
            self._catalog = ()
            with contextlib.suppress(CatalogUnavailable, ServiceError):
                await self._listed(DETAILS_TIMEOUT_S)
        return self._catalog

    async def _item(self, model: Model) -> Listed:
        for item in await self._listed(CATALOG_TIMEOUT_S):
            if item.name == model.id:
                return item
        raise ModelNotFound(
            "the catalog has no such model", model=model.id, service=self._wire.base_url
        )

    async def _check_arrival(self, model: Model) -> None:
        if model.id not in await self._ids("/openai/models"):
            raise DownloadFailed(
                "the service says that it downloaded the model, but does not list it",
                hint=f"Get it with its own command: `foundry model download {model.id}`.",
                model=model.id,
                service=self._wire.base_url,
            )

    def _unavailable(self, why: str) -> CatalogUnavailable:
        return CatalogUnavailable(
            f"the service could not reach the model catalog: {why}", service=self._wire.base_url
        )


def _unlisted(model_id: str, loaded: frozenset[str]) -> Model:
    return Model(
        id=model_id,
        alias=aliases_of(model_id)[0],
        catalog="public",
        cached=True,
        loaded=model_id in loaded,
    )


def _quoted(model_id: str) -> str:
    return quote(model_id, safe=":")


async def _block(response: Response) -> bytes:
    try:
        async with asyncio.timeout(STALL_TIMEOUT_S):
            return await response.read()
    except StreamInterrupted as error:
        raise DownloadFailed(f"the download broke off: {error.message}") from error
    except TimeoutError as error:
        raise DownloadFailed(f"the download has stood still for {STALL_TIMEOUT_S:g} s") from error


async def _refusal(response: Response) -> FoundryError:
    body = b""
    while len(body) < ERROR_BODY_BYTES and (block := await _block(response)):
        body += block
    error = error_of(Reply(response.status, response.headers, body))
    return DownloadFailed(error.message) if isinstance(error, ServerError) else error
