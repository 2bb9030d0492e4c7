"""Errors with the codes of OpenAI's API, as a gateway sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from multidict import CIMultiDict

from foundry_api.gateway.errors import RequestError, make_error_body, translate_error
from foundry_api.types import errors
from foundry_api.types.access_errors import AuthenticationFailed, PermissionDenied, QuotaExceeded
from foundry_api.wire.dialects.base import parse_error
from foundry_api.wire.errors import parse_stream_error
from foundry_api.wire.transport import BufferedResponse

if TYPE_CHECKING:
    from foundry_api.types.errors import FoundryError


def parse(error: RequestError) -> FoundryError:
    """Return what the client makes of an error response of the gateway."""
    headers = CIMultiDict(error.headers)
    return parse_error(BufferedResponse(error.status, headers, make_error_body(error)))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "invalid_api_key", AuthenticationFailed),
        (403, "insufficient_scope", PermissionDenied),
        (403, "model_not_allowed", PermissionDenied),
        (404, "model_not_found", errors.ModelNotFound),
        (409, "model_in_use", errors.ModelInUse),
        (503, "queue_full", errors.ServiceOverloaded),
        (503, "model_loading", errors.ServiceOverloaded),
        (503, "shutting_down", errors.ServiceOverloaded),
        (504, "deadline_exceeded", errors.DeadlineExceeded),
        (504, "gap_timeout", errors.CallTimeout),
        (409, "idempotency_error", errors.InvalidRequest),
        (400, "context_length_exceeded", errors.ContextOverflow),
        (422, "invalid_model_output", errors.StructuredOutputError),
        (422, "invalid_tool_call", errors.ToolCallError),
        (400, "a_new_code", errors.InvalidRequest),
    ],
)
def test_a_code_is_a_type(status: int, code: str, kind: type[FoundryError]) -> None:
    error = parse(RequestError(status, code, "Something happened."))
    assert type(error) is kind
    assert (error.status, error.message) == (status, "Something happened")
    event = make_error_body(RequestError(status, code, "Something happened."))
    assert type(parse_stream_error(event)) is kind


def test_retry_after_is_read_in_milliseconds() -> None:
    error = parse(RequestError(429, "rate_limit_exceeded", "Wait.", retry_after_s=0.25))
    assert isinstance(error, errors.ServiceOverloaded)
    assert (error.retryable, error.retry_after_s) == (True, 0.25)


def test_a_quota_is_not_retried() -> None:
    error = parse(
        RequestError(429, "insufficient_quota", "Used.", retry_after_s=3600.0, should_retry=False)
    )
    assert isinstance(error, QuotaExceeded)
    assert (error.retryable, error.retry_after_s) == (False, 3600.0)


def test_what_should_not_be_retried_is_not() -> None:
    assert parse(RequestError(500, None, "Failed.")).retryable
    assert not parse(RequestError(500, None, "Failed.", should_retry=False)).retryable


def test_the_blamed_field_is_named() -> None:
    error = parse(RequestError(400, "unsupported_parameter", "No.", param="top_logprobs"))
    assert isinstance(error, errors.UnsupportedParameter)
    assert error.field == "top_logprobs"


def test_the_field_that_asks_for_a_missing_feature_is_named() -> None:
    message = "It cannot make a model call a tool."
    error = parse(RequestError(400, "unsupported_feature", message, param="tool_choice"))
    assert isinstance(error, errors.UnsupportedFeature)
    assert error.field == "tool_choice"
    assert translate_error(error).param == "tool_choice"


@pytest.mark.parametrize(
    "message",
    [
        "Requested tokens (500 input + 8000 output) exceed the maximum context length of 8192.",
        (
            "This model's maximum context length is 8192 tokens. However, you requested 8500 "
            "tokens (500 in the messages, 8000 in the completion)."
        ),
    ],
)
def test_an_overflow_has_its_numbers(message: str) -> None:
    error = parse(RequestError(400, "context_length_exceeded", message))
    assert isinstance(error, errors.ContextOverflow)
    assert (error.prompt_tokens, error.max_tokens, error.context_length) == (500, 8000, 8192)


@pytest.mark.parametrize("max_tokens", [None, 100])
def test_an_overflow_is_the_same_behind_a_gateway(max_tokens: int | None) -> None:
    overflow = errors.ContextOverflow(
        "x", prompt_tokens=9000, max_tokens=max_tokens, context_length=8192
    )
    error = parse(translate_error(overflow))
    assert isinstance(error, errors.ContextOverflow)
    assert (error.prompt_tokens, error.max_tokens) == (9000, max_tokens)
    assert error.context_length == 8192
    # LiteLLM knows it by these words.
    assert "this model's maximum context length is 8192 tokens" in error.message.lower()


@pytest.mark.parametrize("code", [None, 7, ["queue_full"], {"a": 1}])
def test_a_code_of_another_type_is_ignored(code: Any) -> None:
    body = msgspec.json.encode({"error": {"message": "Bad", "code": code}})
    assert type(parse_error(BufferedResponse(400, {}, body))) is errors.InvalidRequest
