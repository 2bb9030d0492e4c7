"""Any request to a service, with the guards of every call: breaker, turns, retries and bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never, cast
from urllib.parse import urlencode

import msgspec

from foundry_api.core.call import Call, CallRequest
from foundry_api.core.operation import Finished, Operation, WholeBody
from foundry_api.types.errors import FoundryError, InvalidRequest, RouteNotFound, ServiceNotRunning
from foundry_api.types.results import RawResponse
from foundry_api.types.values import (
    UNENCODABLE,
    as_bool,
    as_float,
    as_int,
    as_text,
    encode,
    format_value,
    strip_secrets,
)
from foundry_api.wire.headers import validate_headers
from foundry_api.wire.transport import IDEMPOTENT_METHODS, MAX_SUCCESS_STATUS, SAFE_METHODS

if TYPE_CHECKING:
    from foundry_api.core.call import CallContext
    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import AnswerFacts
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.resilience.deadline import Deadline
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.events import OperationName
    from foundry_api.types.models import Model
    from foundry_api.wire.transport import Request, Response

__all__ = ["RawCall", "RawOperation", "RawRequest", "make_raw_call", "make_raw_request"]

DEFAULT_TIMEOUT_S = 30.0

_METHOD = re.compile(r"[A-Z]{1,20}")
_PATH = re.compile(r"/(?!/)[!-~]*")
_ID_SEGMENT = re.compile(r"/(?=[^/]{16})[^/]*[0-9][^/]*")


class RawRequest(msgspec.Struct, frozen=True):
    """A request as the caller wants it, validated.

    Attributes:
        method: In capitals.
        path: With its query.
        headers: Of the caller's own.
        body: Already encoded.
    """

    method: str
    path: str
    headers: dict[str, str] = {}
    body: bytes | None = None

    @property
    def name(self) -> str:
        """What it is called in events: without its query, and without the ids in its path."""
        route = _ID_SEGMENT.sub("/{id}", self.path.partition("?")[0])
        return f"{self.method} {route}"


class RawOperation(Operation[Never, bytes, RawResponse]):
    """A request that is for no model, and its answer as it comes.

    Args:
        request: The request.
    """

    __slots__ = ("_request",)

    name: ClassVar[OperationName] = "request"
    needs_model: ClassVar[bool] = False
    default_timeout_s: ClassVar[float | None] = DEFAULT_TIMEOUT_S

    def __init__(self, request: RawRequest) -> None:
        self._request = request

    @property
    def needs_slot(self) -> bool:
        """Whether it may make work for the engine: one that only reads waits for no turn."""
        return self._request.method not in SAFE_METHODS

    def check(self, capabilities: Capabilities) -> None:
        """Refuse nothing: what the service can do is for it to say."""

    def request(self, connection: Connection, model: Model) -> Request:
        """Build the HTTP request."""
        del model
        request = self._request
        return connection.wire.build_request(
            request.method, request.path, request.body, request.headers
        )

    def decoder(self, connection: Connection, model: Model) -> WholeBody[bytes]:
        """Return the body as it is."""
        del connection, model
        return WholeBody(bytes)

    def accepts(self, response: Response) -> bool:
        """Whether it is an answer, and no redirection or error."""
        return response.status <= MAX_SUCCESS_STATUS

    def refusal(self, error: FoundryError) -> FoundryError:
        """Say what to check where there is no such route."""
        if isinstance(error, RouteNotFound):
            error.hint = "Check the method and the path; the generations differ in their routes."
        return error

    def is_final(self, error: FoundryError, *, was_sent: bool) -> bool:
        """Whether it may have been carried out, and must not be carried out twice."""
        del was_sent
        may_be_done = not isinstance(error, ServiceNotRunning)
        return may_be_done and self._request.method not in IDEMPOTENT_METHODS

    def complete(self, value: bytes, texts: list[str], facts: AnswerFacts) -> Finished[RawResponse]:
        """Make the reply."""
        del texts
        reply = RawResponse(
            status=facts.status,
            headers=facts.headers,
            body=value,
            service=facts.connection.base_url,
            attempts=facts.attempts,
        )
        return Finished(reply, facts.timings())


RawCall = Call[Never, RawResponse]
"""A call of any request."""


def make_raw_call(
    context: CallContext,
    request: RawRequest,
    timeout_s: float | Literal["auto"],
    deadline: Deadline,
    service: ServiceHandle | None = None,
) -> RawCall:
    """Make a call of a request.

    Args:
        context: What the client's calls share.
        request: The validated request.
        timeout_s: Bound of the silence, or `auto`.
        deadline: By when it has to be over.
        service: The service to ask, where no other will do; None for any.
    """
    order = CallRequest((request.name,), request, timeout_s, deadline)
    return Call(context, order, RawOperation(request), service)


def make_raw_request(
    method: str,
    path: str,
    *,
    json: Any = None,
    params: Mapping[str, str | int | float | bool] | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawRequest:
    """A request that can go to no other host, and that HTTP allows.

    Raises:
        InvalidRequest: An argument is at fault; `.field` names it.
    """
    method, path = _validate_method(method), _validate_path(path)
    all_headers = validate_headers("headers", headers, InvalidRequest)
    body = None
    if json is not None:
        body = _encode_json(json)
        all_headers = {"Content-Type": "application/json", **all_headers}
    return RawRequest(method, path + _encode_query(path, params), all_headers, body)


def _validate_method(method: object) -> str:
    name = as_text(method)
    if name is None or not _METHOD.fullmatch(name.upper()):
        raise InvalidRequest(
            f"method is {format_value(method)}, not a method of HTTP", field="method"
        )
    return name.upper()


def _validate_path(path: object) -> str:
    text = as_text(path)
    if text is None or not _PATH.fullmatch(text) or "#" in text:
        raise InvalidRequest(
            f"path is {strip_secrets(path)}, not a path on the service",
            field="path",
            hint="Begin it with one slash, and percent-encode what is no printable ASCII.",
        )
    return text


def _encode_query(path: str, params: Mapping[str, str | int | float | bool] | None) -> str:
    if params is None:
        return ""
    if not isinstance(cast("object", params), Mapping):
        raise InvalidRequest(f"params is {format_value(params)}, not a mapping", field="params")
    if not params:
        return ""
    parameters = {name: _encode_parameter(name, value) for name, value in params.items()}
    return ("&" if "?" in path else "?") + urlencode(parameters)


def _encode_parameter(name: str, value: object) -> str:
    if (text := as_text(value)) is not None:
        return text
    integer = as_int(value)
    number = as_float(value) if integer is None else integer
    if number is not None:
        return str(number)
    if (flag := as_bool(value)) is not None:
        return "true" if flag else "false"  # what all generations take
    # A parameter may be a credential: only its type is shown.
    raise InvalidRequest(
        f"params[{name!r}] is of type {type(value).__name__}, not a text", field="params"
    )


def _encode_json(json: Any) -> bytes:
    try:
        return encode(json)
    except UNENCODABLE as error:
        raise InvalidRequest(f"json cannot be sent as JSON: {error}", field="json") from error
