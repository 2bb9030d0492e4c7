"""Errors of the gateway, and the errors of the client as OpenAI's error responses."""

from __future__ import annotations

import math
import re
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.access_errors import (
    AuthenticationFailed,
    PermissionDenied,
    QuotaExceeded,
)
from foundry_api.types.errors import (
    CallTimeout,
    CatalogUnavailable,
    CircuitOpen,
    ClientClosed,
    ConfigurationError,
    ConnectTimeout,
    ContextOverflow,
    DeadlineExceeded,
    DownloadFailed,
    FoundryError,
    InvalidRequest,
    MemoryBudgetExceeded,
    ModelError,
    ModelInUse,
    ModelLoadFailed,
    ModelNotCached,
    ModelNotFound,
    ModelTaskMismatch,
    QueueFull,
    ReadTimeout,
    ResponseNotFound,
    ServiceError,
    ServiceOverloaded,
    ServiceStartFailed,
    StructuredOutputError,
    ToolCallError,
    UnsupportedFeature,
    UnsupportedParameter,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "RequestError",
    "UnsafeAddress",
    "describe_error",
    "format_defect",
    "make_error_body",
    "make_error_event",
    "make_model_not_allowed",
    "make_model_not_found",
    "name_member",
    "translate_error",
]

# The path of an argument: its name, a place in a list, and what is below.
_FIELD = re.compile(r"(?P<name>\w+)(?P<index>(?:\[\d+\])?)(?P<rest>.*)")
_SERVICE_ADDRESS = re.compile(r"the service at https?://[^\s,;)]+")

# How long a client waits before it calls a service again that could not be reached.
UNAVAILABLE_RETRY_S = 1.0


class UnsafeAddress(ConfigurationError):
    """Other machines could call the gateway without a key or without encryption."""


class RequestError(Exception):
    """A request that the gateway answers with an error.

    Args:
        status: HTTP status.
        code: Machine-readable cause, such as `model_not_found`.
        message: What happened and what to do, for the caller.
        param: The field of the request that is to blame, such as `messages[3].content`.
        kind: OpenAI's `type` of the error; default: derived from the status.
        retry_after_s: Seconds after which the same request may succeed.
        should_retry: False tells OpenAI's clients not to retry; None lets the status decide.
        headers: Further headers of the response.
    """

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        param: str | None = None,
        kind: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind or _get_kind(status)
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.extra_headers = headers

    @property
    def headers(self) -> dict[str, str]:
        """The headers that tell a client when to retry, and the further ones."""
        headers = dict(self.extra_headers or {})
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_after_s))
            headers["retry-after-ms"] = str(math.ceil(self.retry_after_s * 1000))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


def _get_kind(status: int) -> str:
    if status == 401:  # noqa: PLR2004 - HTTP statuses are their own names
        return "authentication_error"
    if status == 403:  # noqa: PLR2004
        return "permission_error"
    if status == 429:  # noqa: PLR2004
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004


def make_error_body(error: RequestError) -> bytes:
    """Encode OpenAI's error object."""
    members: dict[str, Any] = {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    return msgspec.json.encode({"error": members})


# The first class that matches decides, so subclasses precede their bases.
_TABLE: tuple[tuple[type[FoundryError], int, str | None], ...] = (
    (ContextOverflow, 400, "context_length_exceeded"),
    (UnsupportedParameter, 400, "unsupported_parameter"),
    (ResponseNotFound, 404, "response_not_found"),
    # What an upstream does not let this gateway do. Its caller has done nothing wrong.
    (AuthenticationFailed, 503, "upstream_unavailable"),
    (PermissionDenied, 503, "upstream_unavailable"),
    (QuotaExceeded, 503, "upstream_overloaded"),
    (InvalidRequest, 400, "invalid_value"),
    (UnsupportedFeature, 400, "unsupported_feature"),
    # The gateway downloads nothing for a call, so a model must be on its machine.
    (ModelNotFound, 404, "model_not_found"),
    (ModelNotCached, 404, "model_not_found"),
    (CatalogUnavailable, 404, "model_not_found"),
    (ModelTaskMismatch, 400, "model_task_mismatch"),
    (ModelInUse, 409, "model_in_use"),
    (ModelLoadFailed, 503, "model_load_failed"),
    (DownloadFailed, 503, "download_failed"),
    (MemoryBudgetExceeded, 503, "model_loading"),
    (ModelError, 503, "model_unavailable"),
    (StructuredOutputError, 422, "invalid_model_output"),
    (ToolCallError, 422, "invalid_tool_call"),
    (QueueFull, 503, "queue_full"),
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (ConnectTimeout, 503, "upstream_unavailable"),
    (CallTimeout, 504, "upstream_timeout"),
    (CircuitOpen, 503, "upstream_unavailable"),
    (ServiceOverloaded, 503, "upstream_overloaded"),
    (ServiceError, 503, "upstream_unavailable"),
    (ClientClosed, 503, "shutting_down"),
)
# The model may err again, and every retry would cost a complete answer or load.
_FINAL_CODES = frozenset({"invalid_model_output", "invalid_tool_call", "model_load_failed"})
# The member of a request that an argument of the client is made of.
_PARAMS = {"audio": "file", "name": "model"}


def translate_error(error: FoundryError) -> RequestError:
    """Return the response to an error of the client. It names no address of an upstream."""
    status, code = 500, None
    for kind, status_of_kind, code_of_kind in _TABLE:
        if isinstance(error, kind):
            status, code = status_of_kind, code_of_kind
            break
    if code == "model_not_found":
        return make_model_not_found(error.model or "")
    if isinstance(error, ReadTimeout):
        return _make_read_timeout(error)
    field = getattr(error, "field", None)
    retry_after_s: float | None = None
    if status == 503:  # noqa: PLR2004
        retry_after_s = getattr(error, "retry_after_s", None) or UNAVAILABLE_RETRY_S
    return RequestError(
        status,
        code,
        _describe_overflow(error) if isinstance(error, ContextOverflow) else describe_error(error),
        param=_PARAMS.get(field, field) if isinstance(field, str) else None,
        retry_after_s=retry_after_s,
        should_retry=False if code in _FINAL_CODES else None,
    )


def name_member(error: InvalidRequest | UnsupportedFeature, members: Mapping[str, str]) -> None:
    """Let an error name the member of the request, which the caller knows, not the argument.

    Args:
        error: An error of the client.
        members: The member for each argument that has another name. Of one in a list, such as
            `tools[].function`, the place in the list and below is kept.
    """
    field = error.field or ""
    match = _FIELD.fullmatch(field)
    member = members.get(match["name"]) if match else None
    if member is None or match is None:
        return
    start, bracket, end = member.partition("[]")
    if bracket:
        member = f"{start}{match['index']}{end}{match['rest']}"
    error.field = member
    if error.message.startswith(field):
        error.message = member + error.message.removeprefix(field)
    if "max_tokens" in members:
        error.hint = error.hint.replace("max_tokens", members["max_tokens"])


def _describe_overflow(error: ContextOverflow) -> str:
    """Return a message in the words of OpenAI's API, by which LiteLLM and others recognise it."""
    context, prompt, limit = error.context_length, error.prompt_tokens, error.max_tokens
    if context is None or prompt is None:
        return f"This model's maximum context length is exceeded: {describe_error(error)}"
    if limit is None:
        what = f"the prompt has {prompt} tokens, which leaves no room for an answer"
    else:
        what = (
            f"you requested {prompt + limit} tokens ({prompt} in the messages, {limit} in the "
            "completion)"
        )
    return f"This model's maximum context length is {context} tokens. However, {what}. {error.hint}"


def _make_read_timeout(error: ReadTimeout) -> RequestError:
    code, what = "first_token_timeout", "no token"
    if error.stage == "streaming":
        code, what = "gap_timeout", "no further token"
    return RequestError(
        504,
        code,
        f"The model sent {what} for {error.limit_s:g} s, the limit of this gateway ({code}_s).",
        should_retry=False,  # the engine was too slow, and would be so again
    )


def format_defect(error: BaseException) -> str:
    """Return where an unexpected exception was raised, for the log.

    Its message is left out: it may quote a prompt or a header.
    """
    text = f"{type(error).__qualname__}\n{''.join(traceback.format_tb(error.__traceback__))}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text if cause is None else f"{text}after {format_defect(cause)}"


def make_error_event(error: RequestError) -> bytes:
    """Encode an error as the last event of a stream."""
    return b"data: %b\n\n" % make_error_body(error)


def make_model_not_found(name: str) -> RequestError:
    """Return the error for a model that cannot be called; it names no other models."""
    return RequestError(
        404,
        "model_not_found",
        f"There is no model {name!r} here; GET /v1/models lists the models.",
        param="model",
    )


def make_model_not_allowed(name: str, *, param: str = "model") -> RequestError:
    """Return the error for a model that the key of a call may not use."""
    return RequestError(
        403,
        "model_not_allowed",
        f"This key may not use the model {name!r}; GET /v1/models lists those that it may.",
        param=param,
    )


def describe_error(error: FoundryError) -> str:
    """Return the message of an error, without the address of the service behind the gateway."""
    if isinstance(error, AuthenticationFailed | PermissionDenied):
        return "The model service refuses the key of this gateway; its operator can see why."
    if isinstance(error, ServiceStartFailed):  # its message has paths of this machine
        return "The model service cannot be started; the log of the gateway says why."
    message = error.message
    if error.service:
        message = message.replace(error.service, "the model service")
    message = _SERVICE_ADDRESS.sub("the model service", message)
    if isinstance(error, InvalidRequest | StructuredOutputError) and error.hint:
        return f"{message}. {error.hint}"
    return f"{message}."
