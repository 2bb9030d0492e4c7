"""What a dialect is: the routes, names and corrections of one generation behind one face."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from foundry_api.types.errors import (
    FoundryError,
    ProtocolError,
    ServiceOverloaded,
    UnsupportedFeature,
)
from foundry_api.wire.errors import NOT_JSON, classify, extract_error_message, parse_retry_after
from foundry_api.wire.transport import BufferedResponse, Request, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.messages import ChatRequest, ServiceGeneration
    from foundry_api.types.models import Model
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.transport import Transport

__all__ = [
    "BAD_JSON",
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
    "refuse_download",
]

Catalog = Literal["local", "public"]
_T = TypeVar("_T")

QUICK_TIMEOUT_S = 10.0
"""For routes that answer in milliseconds, also while the engine generates."""

CATALOG_TIMEOUT_S = 60.0
"""The first call that touches the public catalog waits for it: 4 s offline, more behind proxies."""

LOAD_TIMEOUT_S = 900.0
"""Large models take minutes to load from a cold disk."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What a service says of itself.

    Attributes:
        service_generation: Which Foundry Local it is, by its fingerprint.
        pid: Its process; None where the generation does not tell.
        cache_dir: Where its models lie; None where it does not tell.
    """

    service_generation: ServiceGeneration
    pid: int | None = None
    cache_dir: str | None = None


class ModelCommand(Protocol):
    """A program of the user's that manages a service's models where its HTTP routes do not."""

    async def is_available(self) -> bool:
        """Whether it is installed, and the service that it manages is this one."""
        ...

    async def list_models(self) -> Sequence[Model]:
        """Every variant that it lists, with what is on this machine and what is in memory."""
        ...

    async def get_loaded_ids(self) -> frozenset[str]:
        """Ids of the models in memory."""
        ...

    async def load(self, model_id: str) -> None:
        """Have a model loaded; returns when it is listed as loaded."""
        ...

    async def unload(self, model_id: str) -> None:
        """Have a model unloaded; returns when it is no longer listed as loaded."""
        ...

    def download(self, model_id: str) -> AsyncGenerator[float, None]:
        """Have a model downloaded: percent as it comes. Closing the generator ends the program."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """How to reach one service.

    Attributes:
        transport: Sends the requests.
        base_url: The service's address, without a slash at its end.
        headers: Sent with every request, such as the credential of a gateway.
        command: For a service that has no routes to manage its models; None without such a program.
        json_headers: Sent with every request that has a body of JSON.
    """

    transport: Transport
    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    command: ModelCommand | None = None
    json_headers: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        json_headers = {"Content-Type": "application/json", **self.headers}
        object.__setattr__(self, "json_headers", json_headers)

    async def get(self, path: str, *, timeout_s: float) -> bytes:
        """The body of a GET that succeeded.

        Raises:
            FoundryError: The typed error for any other answer, or for none.
        """
        request = Request("GET", f"{self.base_url}{path}", self.headers)
        try:
            response = await fetch(self.transport, request, timeout_s=timeout_s)
        except FoundryError as error:
            error.with_context(service=self.base_url)
            raise
        if response.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise parse_error(response).with_context(service=self.base_url)
        return response.body

    async def get_json(
        self, path: str, decoder: msgspec.json.Decoder[_T], *, timeout_s: float
    ) -> _T:
        """As `get`, decoded.

        Raises:
            FoundryError: As `get`.
            ProtocolError: The body is not what the decoder takes.
        """
        body = await self.get(path, timeout_s=timeout_s)
        try:
            return decoder.decode(body)
        except BAD_JSON as error:
            raise ProtocolError(
                f"the answer to {path} is not what this generation sends: {error}",
                service=self.base_url,
            ) from error

    def build_post(self, path: str, body: bytes) -> Request:
        """A POST of JSON."""
        return Request("POST", f"{self.base_url}{path}", self.json_headers, body)

    def build_request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        """Any request; the service's own headers win over those that are given."""
        all_headers = {**headers, **self.headers} if headers else self.headers
        return Request(method, f"{self.base_url}{path}", all_headers, body)


class Dialect(Protocol):
    """One generation of the service. Every method raises the typed errors of `errors.py`."""

    @property
    def service_generation(self) -> ServiceGeneration:
        """The generation that it speaks."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What the generation can do."""
        ...

    async def get_status(self) -> ServiceStatus:
        """Liveness: cheap, and never behind a running generation."""
        ...

    async def list_local_models(self) -> Sequence[Model]:
        """Models that the service knows without asking a remote catalog, loaded ones marked."""
        ...

    async def list_public_models(self) -> Sequence[Model]:
        """Models of the remote catalog, loaded ones marked.

        Raises:
            CatalogUnavailable: It could not be reached; finding that out may take seconds.
        """
        ...

    async def find_by_alias(self, name: str) -> Model | None:
        """The model of an alias that no listing tells; None where the service knows none either.

        Only loading it shows which one it is.
        """
        ...

    async def get_loaded_ids(self, catalog: Catalog | None = None) -> frozenset[str]:
        """Ids of the models in memory.

        Args:
            catalog: Only of this one, where the generation tells them apart. The first question
                about the public one makes 2.x ask the remote catalog, which takes 4 s offline.
        """
        ...

    async def load(self, model: Model) -> None:
        """Load a model into memory; returns when it is there."""
        ...

    async def unload(self, model: Model) -> None:
        """Take a model out of memory; returns when it is out."""
        ...

    def download(self, model: Model) -> AsyncGenerator[float, None]:
        """Download a model's files: percent as it comes. Closing the generator gives it up.

        Raises:
            UnsupportedFeature: The generation cannot be told to, when this is called.
            DownloadFailed: It broke off, or the service does not have the model after it.
        """
        ...

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """Those that have routes of their own. Stored responses are kept apart by them."""
        ...

    def make_path(self, catalog: Catalog, route: str) -> str:
        """Where a route such as /v1/embeddings is for the models of a catalog."""
        ...

    def build_chat_request(self, model: Model, request: ChatRequest) -> Request:
        """The HTTP request of a streamed chat completion."""
        ...

    def make_chat_decoder(self, model: Model, request: ChatRequest) -> ChatDecoder:
        """Return a decoder for the answer to `build_chat_request`; it corrects known mistakes."""
        ...

    def non_streaming_request(self, model: Model, request: ChatRequest) -> Request | None:
        """The same without streaming, where a stream that fails does not say why; else None."""
        ...


BAD_JSON = NOT_JSON
"""What msgspec raises for bytes that are not the JSON that was expected."""


def parse_error(response: BufferedResponse) -> FoundryError:
    """The typed error of an answer whose status is no success.

    The handlers send `{"error":{"message":…}}`; a missing route is answered in plain text by the
    HTTP library beneath; a C# service passes on its exception with the stack below it, or as
    problem details, and 1.x sends nothing at all.
    """
    error = classify(response.status, _parse_error_message(response.body))
    if isinstance(error, ServiceOverloaded):
        error.retry_after_s = parse_retry_after(response.headers)
    return error


def lowercase_keys(body: bytes) -> dict[str, Any]:
    """A JSON object with its keys in lower case, as the generations differ in it; else empty."""
    try:
        members = msgspec.json.decode(body, type=dict[str, Any])
    except BAD_JSON:
        return {}
    return {key.lower(): value for key, value in members.items()}


def refuse_download(client: ServiceClient) -> AsyncGenerator[float, None]:
    """What `Dialect.download` does where the service has no route for it.

    Raises:
        UnsupportedFeature: Always.
    """
    raise UnsupportedFeature(
        f"the service at {client.base_url} has no route to download models",
        hint="Use its own command line (`foundry model …`), or service='embedded'.",
    )


def _parse_error_message(body: bytes) -> str:
    return extract_error_message(lowercase_keys(body)) or _message_from_text(body)


_EXCEPTION_NAME = re.compile(r"^(?:[A-Za-z_]\w*\.)*\w*Exception: ")
_STACK_LINE = "   at "


def _message_from_text(body: bytes) -> str:
    lines = body[:500].decode("utf-8", "replace").rstrip().lstrip("\r\n").splitlines()
    if not lines or lines[0].startswith("<"):  # no HTML of a proxy
        return ""
    if len(lines) > 1 and lines[1].startswith(_STACK_LINE):
        return _EXCEPTION_NAME.sub("", lines[0])
    return lines[-1].strip().removeprefix("message=")
