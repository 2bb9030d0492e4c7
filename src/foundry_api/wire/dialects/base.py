"""The dialect protocol: one interface to the routes, names and quirks of each generation."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from foundry_api.types.access_errors import QuotaExceeded
from foundry_api.types.errors import (
    DownloadFailed,
    FoundryError,
    ProtocolError,
    ServiceOverloaded,
    StreamInterrupted,
    UnsupportedFeature,
)
from foundry_api.types.values import is_object
from foundry_api.wire.error_codes import get_error_class
from foundry_api.wire.errors import (
    NOT_JSON,
    classify,
    classify_error_object,
    extract_error_message,
    parse_retry_after,
)
from foundry_api.wire.transport import OK, BufferedResponse, Request, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.messages import ChatRequest, ServiceGeneration
    from foundry_api.types.models import Model
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.transport import Response, Transport

__all__ = [
    "CATALOG_TIMEOUT_S",
    "LOAD_TIMEOUT_S",
    "QUICK_TIMEOUT_S",
    "Catalog",
    "Dialect",
    "ModelCommand",
    "ServiceClient",
    "ServiceStatus",
    "lowercase_keys",
    "parse_error",
    "read_download_block",
    "read_download_error",
    "refuse_download",
    "refuse_removal",
]

_T = TypeVar("_T")  # what a JSON decoder returns

# Models that are registered on this machine, and Microsoft's.
Catalog = Literal["local", "public"]

# For routes that answer in milliseconds, even while the engine generates.
QUICK_TIMEOUT_S = 10.0

# The first request for the public catalog waits for it: 4 s offline, longer behind proxies.
CATALOG_TIMEOUT_S = 60.0

# Large models take minutes to load from a cold disk.
LOAD_TIMEOUT_S = 900.0

# How long a download may send nothing before it counts as failed.
STALL_TIMEOUT_S = 300.0

MAX_ERROR_BYTES = 64 * 2**10

_EXCEPTION_NAME = re.compile(r"^(?:[A-Za-z_]\w*\.)*\w*Exception: ")
_STACK_LINE = "   at "


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The status of a service; None for what its generation does not report.

    A gateway reports the version, the memory and the uptime of the engine behind it, and a problem
    if it cannot serve all calls.
    """

    service_generation: ServiceGeneration
    pid: int | None = None
    cache_dir: str | None = None
    version: str | None = None
    memory_bytes: int | None = None
    uptime_s: float | None = None
    problem: str = ""


class ModelCommand(Protocol):
    """A command line program that manages the models of a service without routes for that."""

    async def is_available(self) -> bool:
        """Return whether the program is installed and manages this service."""
        ...

    async def list_models(self) -> Sequence[Model]:
        """Return every variant, with cached and loaded ones marked."""
        ...

    async def get_loaded_ids(self) -> frozenset[str]:
        """Return the ids of the models in memory."""
        ...

    async def load(self, model_id: str) -> None:
        """Load a model; return when it is listed as loaded."""
        ...

    async def unload(self, model_id: str) -> None:
        """Unload a model; return when it is no longer listed as loaded."""
        ...

    def download(self, model_id: str) -> AsyncGenerator[float, None]:
        """Download a model and yield percentages. Closing the generator ends the program."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """Sends requests to one service. `base_url` has no slash at its end."""

    transport: Transport
    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    command: ModelCommand | None = None
    json_headers: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        json_headers = {"Content-Type": "application/json", **self.headers}
        object.__setattr__(self, "json_headers", json_headers)

    async def get(self, path: str, *, timeout_s: float) -> bytes:
        """Return the body of a GET request, or raise the typed error for its failure."""
        request = Request("GET", f"{self.base_url}{path}", self.headers)
        try:
            response = await fetch(self.transport, request, timeout_s=timeout_s)
        except FoundryError as error:
            error.with_context(service=self.base_url)
            raise
        if response.status != OK:
            raise parse_error(response).with_context(service=self.base_url)
        return response.body

    async def get_json(
        self, path: str, decoder: msgspec.json.Decoder[_T], *, timeout_s: float
    ) -> _T:
        """Return the decoded body of a GET request."""
        body = await self.get(path, timeout_s=timeout_s)
        try:
            return decoder.decode(body)
        except NOT_JSON as error:
            raise ProtocolError(
                f"the answer to {path} is not what this generation sends: {error}",
                service=self.base_url,
            ) from error

    def build_post(self, path: str, body: bytes) -> Request:
        return Request("POST", f"{self.base_url}{path}", self.json_headers, body)

    def build_request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """Build any request. The headers of this client replace those given."""
        all_headers = {**headers, **self.headers} if headers else self.headers
        return Request(method, f"{self.base_url}{path}", all_headers, body)


class Dialect(Protocol):
    """The protocol of one service generation."""

    @property
    def service_generation(self) -> ServiceGeneration: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def manages_calls(self) -> bool:
        """Whether the service itself queues calls, loads their models and enforces deadlines."""
        ...

    async def get_status(self) -> ServiceStatus:
        """Check that the service is alive. Cheap, and independent of running generations."""
        ...

    async def list_local_models(self) -> Sequence[Model]:
        """List the models that are known without the remote catalog, loaded ones marked."""
        ...

    async def list_public_models(self) -> Sequence[Model]:
        """List the models of the remote catalog; CatalogUnavailable may take seconds to arise."""
        ...

    async def find_by_alias(self, name: str) -> Model | None:
        """Find a model by an alias that is in no listing, which may load it."""
        ...

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Return the ids of the models in memory, of one catalog or of all."""
        ...

    async def load(self, model: Model) -> None:
        """Load a model; return when it is in memory."""
        ...

    async def unload(self, model: Model) -> None:
        """Unload a model; return when it is out of memory."""
        ...

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        """Download a model's files and yield percentages. Closing the generator cancels it."""
        ...

    async def remove(self, model: Model) -> int:
        """Delete a model's files; return the bytes freed. UnsupportedFeature without a route."""
        ...

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """Catalogs with their own routes. Each has its own store of responses."""
        ...

    def make_path(self, catalog: Catalog, route: str) -> str:
        """Return the path of a route such as /v1/embeddings for the models of a catalog."""
        ...

    def get_model_name(self, model: Model) -> str:
        """Return the name by which requests name a model; it is not always fit to be shown."""
        ...

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        """Build the HTTP request of a streamed chat completion."""
        ...

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """Make a decoder that corrects the generation's known mistakes."""
        ...

    def build_non_streaming_request(self, model: Model, request: ChatRequest) -> Request | None:
        """Build a request that explains why a stream failed; None if the stream itself does."""
        ...


def parse_error(response: BufferedResponse) -> FoundryError:
    """Return the typed error for a response whose status is not a success."""
    # Handlers send `{"error": {"message": …}}`. The HTTP library under SDK 2.x reports a missing
    # route in plain text. C# services send problem details, or an exception with its stack trace,
    # and SDK 1.x often sends no body at all.
    body, headers = response.body, response.headers
    members = lowercase_keys(body)
    inner = members.get("error")
    if is_object(inner) and get_error_class(inner) is not None:
        error = classify_error_object(response.status, inner)
    else:
        message = extract_error_message(members) or _parse_text_error(body)
        error = classify(response.status, message)
    if isinstance(error, ServiceOverloaded | QuotaExceeded):
        error.retry_after_s = parse_retry_after(headers)
    # A header of OpenAI's API, by which a gateway says that a retry would fail too.
    if headers.get("x-should-retry", "").lower() == "false":
        error.retryable = False
    return error


def lowercase_keys(body: bytes) -> dict[str, Any]:
    """Decode a JSON object with its keys in lower case; return {} for anything else."""
    # The documentation and the services differ in the case of their keys.
    try:
        members = msgspec.json.decode(body, type=dict[str, Any])
    except NOT_JSON:
        return {}
    return {key.lower(): value for key, value in members.items()}


async def read_download_block(response: Response) -> bytes:
    """Return the next block of a download's progress; DownloadFailed if none arrives."""
    try:
        async with asyncio.timeout(STALL_TIMEOUT_S):
            return await response.read()
    except StreamInterrupted as error:
        raise DownloadFailed(f"the download broke off: {error.message}") from error
    except TimeoutError as error:
        raise DownloadFailed(f"the download has stalled for {STALL_TIMEOUT_S:g} s") from error


async def read_download_error(response: Response) -> FoundryError:
    """Read the response to a download that was refused, and return the typed error."""
    body = bytearray()
    while len(body) < MAX_ERROR_BYTES and (block := await read_download_block(response)):
        body += block
    return parse_error(BufferedResponse(response.status, response.headers, bytes(body)))


def refuse_removal(client: ServiceClient) -> UnsupportedFeature:
    """Return the error of generations without a route that deletes models."""
    return UnsupportedFeature(
        f"the service at {client.base_url} has no route to remove models",
        hint="Use its own command line (`foundry model …`), or service='embedded'.",
    )


def refuse_download(client: ServiceClient) -> AsyncGenerator[float, None]:
    """Raise UnsupportedFeature, for generations without a download route."""
    raise UnsupportedFeature(
        f"the service at {client.base_url} has no route to download models",
        hint="Use its own command line (`foundry model …`), or service='embedded'.",
    )


def _parse_text_error(body: bytes) -> str:
    lines = body[:500].decode("utf-8", "replace").rstrip().lstrip("\r\n").splitlines()
    if not lines or lines[0].startswith("<"):  # a proxy's HTML page says nothing about the cause
        return ""
    if len(lines) > 1 and lines[1].startswith(_STACK_LINE):
        return _EXCEPTION_NAME.sub("", lines[0])
    return lines[-1].strip().removeprefix("message=")  # the last line of oatpp's error page
