"""The dialect of the CLI service up to 0.9, known from documentation and recordings only."""

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
)
from foundry_api.types.models import Model
from foundry_api.wire.chat.request import encode
from foundry_api.wire.dialects.base import (
    CATALOG_TIMEOUT_S,
    LOAD_TIMEOUT_S,
    QUICK_TIMEOUT_S,
    ServiceStatus,
    lowercase_keys,
    read_download_block,
    read_download_error,
)
from foundry_api.wire.dialects.csharp import IDS_DECODER, CSharpDialect
from foundry_api.wire.dialects.legacy_catalog import (
    CATALOG_DECODER,
    CatalogItem,
    get_execution_provider,
    make_download_body,
    make_model,
    resolve_id,
    sort_variants,
)
from foundry_api.wire.dialects.model_ids import guess_aliases
from foundry_api.wire.transport import OK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from foundry_api.types.messages import ChatRequest, ServiceGeneration
    from foundry_api.wire.dialects.base import Catalog, ServiceClient
    from foundry_api.wire.transport import Response

__all__ = ["MAX_LINE_BYTES", "DownloadProgressDecoder", "LegacyDialect", "parse_percent"]

# Limit for one line of a download, and for the JSON at its end.
MAX_LINE_BYTES = 64 * 1024

# How long an unused model stays in memory: the service's own default, and what its SDK requests.
TTL_S = 600

# The catalog only adds details to the list of local models. A service without network would
# keep the caller waiting for CATALOG_TIMEOUT_S.
DETAILS_TIMEOUT_S = 15.0

# `("model.onnx.data", 0.5)`, as documented, and `Total 10.1% …`, as the SDK reads it.
_FRACTION = re.compile(rb"^\(.*,\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*\)$")
_PERCENT = re.compile(rb"(\d{1,3}(?:\.\d+)?)\s?%")


class LegacyDialect(CSharpDialect):
    """The dialect of the CLI service up to 0.9."""

    service_generation: ServiceGeneration = "legacy"
    _has_finish_reasons = False
    # Answers are truncated at about 512 tokens. Since 0.8 neither a finish reason nor token counts
    # are sent (issues 243 and 299), so reaching the limit is the only sign of it.
    _default_limit = 512
    _accepts_tools = False  # unknown

    def __init__(
        self, client: ServiceClient, *, is_windows: bool = sys.platform == "win32"
    ) -> None:
        super().__init__(client)
        self.capabilities = CAPABILITIES[self.service_generation]
        self._is_windows = is_windows
        self._catalog: Sequence[CatalogItem] | None = None

    async def get_status(self) -> ServiceStatus:
        members = lowercase_keys(
            await self._client.get("/openai/status", timeout_s=QUICK_TIMEOUT_S)
        )
        cache_dir = members.get("modeldirpath")
        return ServiceStatus(
            self.service_generation, cache_dir=cache_dir if isinstance(cache_dir, str) else None
        )

    async def list_local_models(self) -> list[Model]:
        if self._catalog is None:
            # Fetched once only. A service that cannot reach its catalog still lists its models,
            # whose aliases are then guessed from their ids.
            self._catalog = ()
            with contextlib.suppress(CatalogUnavailable, ServiceError):
                await self._fetch_catalog(DETAILS_TIMEOUT_S)
        items = self._catalog
        cached, loaded = await asyncio.gather(
            self._get_ids("/openai/models"), self.get_loaded_ids()
        )
        local_ids = cached | loaded
        listed = {item.name for item in items}
        return [
            *(
                make_model(item, cached=cached, loaded=loaded)
                for item in items
                if item.name in local_ids
            ),
            *(
                Model(
                    id=model_id,
                    alias=guess_aliases(model_id)[0],
                    catalog="public",
                    cached=True,
                    loaded=model_id in loaded,
                )
                for model_id in sorted(local_ids - listed)
            ),
        ]

    async def list_public_models(self) -> list[Model]:
        items = await self._fetch_catalog(CATALOG_TIMEOUT_S)
        cached, loaded = await asyncio.gather(
            self._get_ids("/openai/models"), self.get_loaded_ids()
        )
        return [make_model(item, cached=cached, loaded=loaded) for item in items]

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        if catalog == "local":  # there is none
            return frozenset()
        return await self._get_ids("/openai/loadedmodels")

    async def load(self, model: Model) -> None:
        ep = get_execution_provider(model.id, self._catalog or ())
        query = f"ttl={TTL_S}" if ep is None else f"ttl={TTL_S}&ep={ep}"
        try:
            await self._client.get(
                f"/openai/load/{_quote_id(model.id)}?{query}", timeout_s=LOAD_TIMEOUT_S
            )
        except ServerError as error:
            raise ModelLoadFailed(
                f"the service could not load the model: {error.message}",
                model=model.id,
                service=self._client.base_url,
                status=error.status,
            ) from error

    async def unload(self, model: Model) -> None:
        # The route fails for a model that is not in memory.
        if model.id in await self.get_loaded_ids():
            path = f"/openai/unload/{_quote_id(model.id)}?force=true"
            await self._client.get(path, timeout_s=LOAD_TIMEOUT_S)

    async def download(self, model: Model) -> AsyncGenerator[float, None]:
        # The service may continue the download after the client has left (issue 365).
        items = await self._fetch_catalog(CATALOG_TIMEOUT_S)
        item = next((item for item in items if item.name == model.id), None)
        if item is None:
            raise ModelNotFound(
                "the catalog has no such model", model=model.id, service=self._client.base_url
            )
        body = make_download_body(item)
        response = await self._client.transport.send(
            self._client.build_post("/openai/download", encode(body))
        )
        try:
            if response.status != OK:
                raise await _read_error(response)
            decoder = DownloadProgressDecoder()
            while block := await read_download_block(response):
                for percent in decoder.feed(block):
                    yield percent
            decoder.finish()
        except FoundryError as error:
            error.with_context(model=model.id, service=self._client.base_url)
            raise
        finally:
            response.close()
        # A successful download may still be missing from the service's index (issue 232).
        if model.id not in await self._get_ids("/openai/models"):
            raise DownloadFailed(
                "the service reports the download as complete, but does not list the model",
                hint=f"Get it with its own command: `foundry model download {model.id}`.",
                model=model.id,
                service=self._client.base_url,
            )

    def _make_body(self, model: Model, request: ChatRequest) -> dict[str, Any]:
        body = super()._make_body(model, request)
        if request.seed is not None:
            body["random_seed"] = request.seed  # its name in the documentation
        return body

    async def _get_ids(self, path: str) -> frozenset[str]:
        names = await self._client.get_json(path, IDS_DECODER, timeout_s=QUICK_TIMEOUT_S)
        return frozenset(resolve_id(name, self._catalog or ()) for name in names)

    async def _fetch_catalog(self, timeout_s: float) -> Sequence[CatalogItem]:
        try:
            listing = await self._client.get_json(
                "/foundry/list", CATALOG_DECODER, timeout_s=timeout_s
            )
        except ServerError as error:
            raise self._make_catalog_error(error.message) from error
        if not (items := sort_variants(listing, is_windows=self._is_windows)):
            # An empty list, too, means that the service could not reach its catalog.
            raise self._make_catalog_error("it is empty")
        self._catalog = items
        return items

    def _make_catalog_error(self, reason: str) -> CatalogUnavailable:
        return CatalogUnavailable(
            f"the service could not reach the model catalog: {reason}",
            service=self._client.base_url,
        )


def _quote_id(model_id: str) -> str:
    return quote(model_id, safe=":")


async def _read_error(response: Response) -> FoundryError:
    error = await read_download_error(response)
    return DownloadFailed(error.message) if isinstance(error, ServerError) else error


class DownloadProgressDecoder:
    """Decodes the progress and the result in the body of a download."""

    def __init__(self) -> None:
        self._buffer = b""
        self._result = b""

    def feed(self, block: bytes) -> Iterator[float]:
        """Yield the percentages that this block completes; they may restart with each file."""
        # Progress bars are redrawn with carriage returns.
        *lines, self._buffer = (self._buffer + block.replace(b"\r", b"\n")).split(b"\n")
        for line in lines:
            yield from self._decode_line(line)
        if len(self._buffer) > MAX_LINE_BYTES or len(self._result) > MAX_LINE_BYTES:
            raise ProtocolError(f"a line of the download is larger than {MAX_LINE_BYTES} bytes")

    def finish(self) -> None:
        """Raise DownloadFailed unless the service reported success."""
        for _ in self._decode_line(self._buffer):
            pass
        result = lowercase_keys(self._result)
        if not result:
            raise DownloadFailed("the download broke off before the service reported its end")
        if result.get("success") is not True:
            reason = (
                result.get("errormessage")
                or result.get("error")
                or "the service does not report why"
            )
            raise DownloadFailed(f"the service could not download the model: {reason}")

    def _decode_line(self, line: bytes) -> Iterator[float]:
        line = line.strip()
        # Once a line begins with a brace, everything to the end is the result in JSON.
        if self._result or line.startswith(b"{"):
            self._result += line
        elif (percent := parse_percent(line)) is not None:
            yield percent


def parse_percent(line: bytes) -> float | None:
    """Return the percentage in a line, from 0 to 100; None if there is none."""
    if match := _FRACTION.search(line):
        return min(100.0 * float(match[1]), 100.0)
    match = _PERCENT.search(line)
    return min(float(match[1]), 100.0) if match else None
