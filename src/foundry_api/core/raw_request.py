"""Arbitrary HTTP requests to a service, with the retries and limits of every call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Never, cast
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
    from foundry_api.types.checks import Timeout
    from foundry_api.types.events import OperationName
    from foundry_api.types.models import Model
    from foundry_api.wire.transport import Request, Response

__all__ = ["RawCall", "RawOperation", "RawRequest", "make_raw_call", "make_raw_request"]

DEFAULT_TIMEOUT_S = 30.0

_METHOD = re.compile(r"[A-Z]{1,20}")
_PATH = re.compile(r"/(?!/)[!-~]*")
_ID_SEGMENT = re.compile(r"/(?=[^/]{16})[^/]*[0-9][^/]*")  # 16 characters or more, with a digit


class RawRequest(msgspec.Struct, frozen=True):
    """A validated request. `path` includes the query."""

    method: str
    path: str
    headers: dict[str, str] = {}
    body: bytes | None = None

    @property
    def name(self) -> str:
        """The name in events and metrics, such as `GET /v1/responses/{id}`."""
        # Queries and ids are left out: each distinct name is a time series of its own.
        route = _ID_SEGMENT.sub("/{id}", self.path.partition("?")[0])
        return f"{self.method} {route}"


class RawOperation(Operation[Never, bytes, RawResponse]):
    """A request that needs no model, with the response body as it is."""

    __slots__ = ("_request",)

    name: ClassVar[OperationName] = "request"
    needs_model: ClassVar[bool] = False
    default_timeout_s: ClassVar[float | None] = DEFAULT_TIMEOUT_S

    def __init__(self, request: RawRequest) -> None:
        self._request = request

    @property
    def needs_slot(self) -> bool:
        """Whether the request may make the engine work. Safe methods don't wait for a slot."""
        return self._request.method not in SAFE_METHODS

    def check(self, capabilities: Capabilities) -> None:
        """Accept everything: the service decides."""

    def make_request(self, connection: Connection, model: Model) -> Request:
        del model
        request = self._request
        return connection.service_client.build_request(
            request.method, request.path, request.body, request.headers
        )

    def make_decoder(self, connection: Connection, model: Model) -> WholeBody[bytes]:
        del connection, model
        return WholeBody(bytes)

    def accepts(self, response: Response) -> bool:
        """Whether the status is not a redirection or an error."""
        return response.status <= MAX_SUCCESS_STATUS

    def translate_error(self, error: FoundryError) -> FoundryError:
        if isinstance(error, RouteNotFound):
            error.hint = "Check the method and the path; the generations differ in their routes."
        return error

    def is_final(self, error: FoundryError, *, was_sent: bool) -> bool:
        """Whether the service may have executed a request that must not be executed twice."""
        del was_sent
        may_be_executed = not isinstance(error, ServiceNotRunning)
        return may_be_executed and self._request.method not in IDEMPOTENT_METHODS

    def complete(self, value: bytes, texts: list[str], facts: AnswerFacts) -> Finished[RawResponse]:
        del texts
        response = RawResponse(
            status=facts.status,
            headers=facts.headers,
            body=value,
            service=facts.connection.base_url,
            attempts=facts.attempts,
        )
        return Finished(response, facts.make_timings())


RawCall = Call[Never, RawResponse]


def make_raw_call(
    context: CallContext,
    request: RawRequest,
    timeout_s: Timeout,
    deadline: Deadline,
    service: ServiceHandle | None = None,
) -> RawCall:
    """Make a call of `service`, or of any service of the client."""
    call_request = CallRequest((request.name,), request, timeout_s, deadline)
    return Call(context, call_request, RawOperation(request), service)


def make_raw_request(
    method: str,
    path: str,
    *,
    json: Any = None,
    params: Mapping[str, str | int | float | bool] | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawRequest:
    """Validate the arguments and return a request, which can only go to the service's own host."""
    method_name = as_text(method)
    if method_name is None or not _METHOD.fullmatch(method_name.upper()):
        raise InvalidRequest(
            f"method is {format_value(method)}, not an HTTP method", field="method"
        )
    valid_path = as_text(path)
    # `_PATH` rejects "//host", which is a URL with another host.
    if valid_path is None or not _PATH.fullmatch(valid_path) or "#" in valid_path:
        raise InvalidRequest(
            f"path is {strip_secrets(path)}, not a path on the service",
            field="path",
            hint="Start it with one slash, and percent-encode all but printable ASCII.",
        )
    all_headers = validate_headers("headers", headers, InvalidRequest)
    body = None
    if json is not None:
        try:
            body = encode(json)
        except UNENCODABLE as error:
            raise InvalidRequest(f"json cannot be sent as JSON: {error}", field="json") from error
        all_headers = {"Content-Type": "application/json", **all_headers}
    target = valid_path + _encode_query(valid_path, params)
    return RawRequest(method_name.upper(), target, all_headers, body)


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
        return "true" if flag else "false"  # understood by all generations
    # A parameter may be a credential, so the message shows only its type.
    raise InvalidRequest(
        f"params[{name!r}] is of type {type(value).__name__}, not a string", field="params"
    )
