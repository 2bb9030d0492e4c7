"""The OpenAPI document of the gateway, made from its route table and its types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foundry_api._version import __version__
from foundry_api.gateway.anthropic.errors import get_anthropic_type, make_anthropic_error
from foundry_api.gateway.openapi.anthropic_types import AnthropicError
from foundry_api.gateway.openapi.openai_types import ErrorResponse
from foundry_api.gateway.openapi.operations import CALL_HEADERS
from foundry_api.gateway.openapi.schemas import Schemas
from foundry_api.gateway.routing import MAX_ID_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from foundry_api.gateway.openapi.operations import Operation
    from foundry_api.gateway.routing import Handler, Route

__all__ = ["ERRORS", "make_document"]

_AZURE = "/openai"

# What a status means, and the codes of its errors.
ERRORS: dict[int, tuple[str, tuple[str, ...]]] = {
    400: (
        "The request is invalid.",
        (
            "context_length_exceeded",
            "https_required",
            "invalid_content_type",
            "invalid_header",
            "invalid_host",
            "invalid_http",
            "invalid_json",
            "invalid_multipart",
            "invalid_request",
            "invalid_target",
            "invalid_type",
            "invalid_value",
            "missing_required_parameter",
            "model_task_mismatch",
            "previous_response_not_found",
            "unsupported_content",
            "unsupported_feature",
            "unsupported_parameter",
        ),
    ),
    401: ("There is no valid key.", ("invalid_api_key",)),
    403: (
        "The key or the web page may not do this.",
        ("insufficient_scope", "model_not_allowed", "no_keys", "origin_not_allowed"),
    ),
    404: (
        "There is no such thing.",
        (
            "batch_not_found",
            "call_not_found",
            "file_not_found",
            "key_not_found",
            "model_not_found",
            "response_not_found",
            "unknown_url",
        ),
    ),
    405: ("The path has other methods; `Allow` lists them.", ("method_not_allowed",)),
    408: ("The body arrived too slowly.", ("request_timeout",)),
    409: (
        "Another request is in the way.",
        (
            "batch_ended",
            "batch_not_ended",
            "file_in_use",
            "idempotency_error",
            "key_in_use",
            "model_in_use",
        ),
    ),
    413: ("The body is too large.", ("payload_too_large", "storage_full")),
    415: (
        "The body has another form than the route takes, or is compressed.",
        ("unsupported_encoding", "unsupported_media_type"),
    ),
    422: (
        "The model answered in another form than requested.",
        ("invalid_model_output", "invalid_tool_call"),
    ),
    429: (
        "A limit is used up. `Retry-After` says when to try again.",
        ("insufficient_quota", "rate_limit_exceeded", "too_many_batches", "too_many_failures"),
    ),
    431: ("The head of the request is too large.", ("header_too_large",)),
    500: ("The gateway failed; its log has the details.", ("internal_error",)),
    503: (
        "The gateway or the model cannot serve now. `Retry-After` says when to try again.",
        (
            "call_stopped",
            "model_loading",
            "catalog_unavailable",
            "download_failed",
            "model_load_failed",
            "model_unavailable",
            "queue_full",
            "queue_timeout",
            "shutting_down",
            "storage_failed",
            "upstream_overloaded",
            "upstream_unavailable",
        ),
    ),
    507: ("The disk of the gateway is full.", ("disk_full",)),
    504: (
        "A time limit has passed.",
        (
            "call_timeout",
            "deadline_exceeded",
            "first_token_timeout",
            "gap_timeout",
            "queue_timeout",
            "upstream_timeout",
        ),
    ),
}
_OF_ALL = (400, 403, 415, 431, 500)
_OF_CLOSED = (401, 429, 503)
_OF_BODIES = (408, 413)
_OF_CALLS = (404, 409, 422, 504)

_HEADERS = {
    "x-request-id": {
        "required": True,
        "schema": {"type": "string"},
        "description": "Identifies the request, also in the gateway's log.",
    }
}
_PATH_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
    "description": "An id, percent-encoded. That of a model may also be its alias.",
}

_DESCRIPTION = """\
The HTTP API of foundry-api, a gateway for language models of Microsoft Foundry Local.

Errors have the shape of OpenAI's, those of Anthropic's routes the shape of Anthropic's; `code` says
what went wrong. Every answer has `x-request-id`. Members that no route knows are ignored. `HEAD` is
answered as `GET` without a body; other methods of a path get 405 and `Allow`.

A stream is `text/event-stream`: each event has JSON, whose schema is in `x-itemSchema`. An error in
a stream is its last event.
"""
_KEY = (
    "A key that `foundry-api keys create` made, with the scope that the operation names. A gateway "
    "without keys serves its own machine only and needs none."
)


def make_document(
    routes: Iterable[Route], operations: Mapping[Handler, Operation]
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a route table; each handler has an operation."""
    schemas = Schemas(_list_types(operations.values()))
    used_errors: set[str] = set()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _describe_operation(route, operations[route.handler], schemas)
        used_errors |= {
            response["$ref"].rpartition("/")[2]
            for response in operation["responses"].values()
            if "$ref" in response
        }
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    tags = [one.tag for one in operations.values()]
    tags += [tag for methods in paths.values() for one in methods.values() for tag in one["tags"]]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "foundry-api gateway",
            "version": __version__,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(tags)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {
                name: _describe_error(name, schemas)
                for name in sorted(used_errors, key=lambda name: (len(name), name))
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": _KEY},
                "x-api-key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "The same key.",
                },
                "api-key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "api-key",
                    "description": "The same key.",
                },
            },
        },
    }


def _list_types(operations: Iterable[Operation]) -> Iterable[type]:
    yield from (ErrorResponse, AnthropicError)
    for operation in operations:
        for kind in (operation.body, operation.form, operation.result, operation.event):
            if kind is not None:
                yield kind


def _describe_operation(route: Route, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    is_alias = route.path.startswith(_AZURE)
    name = route.handler.__name__
    prefix = "azure_deployment_" if "/deployments/" in route.path else "azure_"
    takes_body = operation.body is not None or operation.form is not None
    statuses = {*_OF_ALL, *operation.errors}
    if route.access != "open":
        statuses |= {*_OF_CLOSED}
    if "{id}" in route.path:
        statuses.add(404)
    if takes_body:
        statuses |= {*_OF_BODIES}
    if operation.is_call:
        statuses |= {*_OF_CALLS}
    shape = "Anthropic" if route.encode_error is make_anthropic_error else ""
    description = [operation.notes] if operation.notes else []
    if operation.event is not None:
        description.append("`stream: true` sends events." if operation.result else "Sends events.")
    description.append(_describe_access(route.access))
    described: dict[str, Any] = {
        "operationId": f"{prefix}{name}" if is_alias else name,
        "tags": [f"{operation.tag} under {_AZURE}" if is_alias else operation.tag],
        "summary": route.summary,
        "description": " ".join(description),
        "parameters": [
            *([_PATH_ID] if "{id}" in route.path else []),
            *operation.parameters,
            *(CALL_HEADERS if operation.is_call else ()),
        ],
        "responses": {
            "200": _describe_result(operation, schemas),
            **{
                str(status): {"$ref": f"#/components/responses/{shape}Error{status}"}
                for status in sorted(statuses - {*operation.statuses})
            },
            **{str(status): _describe_result(operation, schemas) for status in operation.statuses},
        },
        "security": [],
    }
    if is_alias:
        described["x-alias-of"] = name
    if takes_body:
        described["requestBody"] = _describe_body(operation, schemas)
    if route.access != "open":
        scopes = route.access.split(" or ")
        described["security"] = [{name: scopes} for name in ("bearer", "x-api-key", "api-key")]
    return described


def _describe_access(access: str) -> str:
    if access == "open":
        return "Needs no key."
    scopes = " or ".join(f"`{scope}`" for scope in access.split(" or "))
    return f"Needs a key with the scope {scopes}."


def _describe_body(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    if operation.body is not None:
        media: dict[str, Any] = {"schema": schemas.get_ref(operation.body)}
        if operation.example is not None:
            media["example"] = operation.example
        return {"required": True, "content": {"application/json": media}}
    forms = [] if operation.form is None else [schemas.get_ref(operation.form)]
    file = {
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary"}},
        "required": ["file"],
    }
    return {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"allOf": [*forms, file]}}},
    }


def _describe_result(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.result is not None:
        content["application/json"] = {"schema": schemas.get_ref(operation.result)}
    for media_type, schema in operation.media_types:
        content[media_type] = {"schema": schema}
    if operation.event is not None:
        content["text/event-stream"] = {
            "schema": {"type": "string"},
            "x-itemSchema": schemas.get_ref(operation.event),
        }
    return {"description": "The answer.", "headers": _HEADERS, "content": content}


def _describe_error(name: str, schemas: Schemas) -> dict[str, Any]:
    status = int(name[-3:])
    meaning, codes = ERRORS[status]
    description = f"{meaning} Codes: {', '.join(f'`{code}`' for code in codes)}."
    schema = schemas.get_ref(ErrorResponse)
    if name.startswith("Anthropic"):
        description = f"{meaning} Type: `{get_anthropic_type(status)}`."
        # The head and the path of a request are checked before its route, so its shape, is known.
        own = schemas.get_ref(AnthropicError)
        schema = {"anyOf": [own, schema]} if status in {*_OF_ALL, 404} else own
    headers = dict(_HEADERS)
    if status in {429, 503}:
        headers["Retry-After"] = {
            "schema": {"type": "string"},
            "description": "Seconds; `retry-after-ms` has milliseconds.",
        }
    return {
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    }
