"""What each route takes and returns, for the description of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundry_api.gateway import health, key_management, llama, management
from foundry_api.gateway.anthropic import batch_types as message_batch_types
from foundry_api.gateway.anthropic import batches as message_batches
from foundry_api.gateway.anthropic import messages
from foundry_api.gateway.anthropic.request import CountBody, MessagesBody
from foundry_api.gateway.batches import routes as batches
from foundry_api.gateway.dashboard import live, sign_in, static_files
from foundry_api.gateway.files.batch_types import BatchList, BatchObject
from foundry_api.gateway.files.types import DeletedFile, FileList, FileObject
from foundry_api.gateway.history import WINDOWS
from foundry_api.gateway.metrics import CONTENT_TYPE as METRICS_TYPE
from foundry_api.gateway.openai import (
    chat,
    completions,
    embeddings,
    files,
    models,
    responses,
    transcriptions,
)
from foundry_api.gateway.openai.chat_request import ChatBody
from foundry_api.gateway.openai.responses_request import ResponseBody
from foundry_api.gateway.openapi import (
    anthropic_types,
    dashboard_types,
    gateway_types,
    openai_types,
)

if TYPE_CHECKING:
    from foundry_api.gateway.routing import Handler

__all__ = ["CALL_HEADERS", "OPERATIONS", "Operation", "describe_self"]

OPENAI, ANTHROPIC, MANAGEMENT, KEYS, DASHBOARD, LLAMA, HEALTH = (
    "OpenAI's API",
    "Anthropic's API",
    "Management",
    "Keys",
    "The page of the gateway",
    "llama.cpp's router",
    "Health and description",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a route takes and returns.

    Attributes:
        tag: The group of the route.
        body: The type of the JSON body; None without one.
        form: The type of a multipart form with a file; None without one.
        result: The type of the JSON answer; None if it is none of ours.
        event: The type of the data of the events of a stream; None without one.
        media_types: Other media types of the answer, with their schemas.
        errors: Statuses of errors, besides those of all routes.
        statuses: Further statuses with the same answer.
        parameters: Parameters of the query and the headers.
        example: A body that can be sent.
        notes: What the summary of the route does not say.
        is_call: Whether it calls a model, so that deadlines and idempotency keys apply.
    """

    tag: str
    body: type | None = None
    form: type | None = None
    result: type | None = None
    event: type | None = None
    media_types: tuple[tuple[str, dict[str, Any]], ...] = ()
    errors: tuple[int, ...] = ()
    statuses: tuple[int, ...] = ()
    parameters: tuple[dict[str, Any], ...] = ()
    example: dict[str, Any] | None = None
    notes: str = ""
    is_call: bool = False


def _make_parameter(
    place: str, name: str, schema: dict[str, Any], description: str
) -> dict[str, Any]:
    """Return a parameter that may be left out."""
    return {
        "name": name,
        "in": place,
        "required": False,
        "schema": schema,
        "description": description,
    }


_SECONDS = {"type": "number", "exclusiveMinimum": 0}
CALL_HEADERS = (
    _make_parameter(
        "header",
        "Idempotency-Key",
        {"type": "string", "minLength": 1, "maxLength": 255},
        "The same request with the same key gets the same answer for 24 hours. Not for streams.",
    ),
    _make_parameter(
        "header", "X-Request-Timeout", _SECONDS, "Seconds that the client waits for the answer."
    ),
    _make_parameter(
        "header", "Prefer", {"type": "string"}, "`wait=30` is the same as X-Request-Timeout."
    ),
    _make_parameter(
        "header",
        "x-stainless-read-timeout",
        _SECONDS,
        "Seconds without a byte that the client accepts, as OpenAI's SDKs send them.",
    ),
)

_TEXT = {"type": "string"}


def _describe_limit(default: int, most: int) -> dict[str, Any]:
    return _make_parameter(
        "query",
        "limit",
        {"type": "integer", "minimum": 1, "maximum": most},
        f"How many items to return; {default} without it.",
    )


def _describe_page(default: int, most: int) -> tuple[dict[str, Any], ...]:
    return (
        _describe_limit(default, most),
        _make_parameter(
            "query", "order", {"enum": ["asc", "desc"]}, "The last one first without it."
        ),
        _make_parameter("query", "after", _TEXT, "The id of the item before the page."),
    )


_MODEL_ERRORS = (404, 409, 504)
_HELLO = [{"role": "user", "content": "Hello"}]

_MODEL_COMMAND = Operation(tag=MANAGEMENT, result=gateway_types.GatewayModel, errors=_MODEL_ERRORS)
_LLAMA_COMMAND = Operation(
    tag=LLAMA,
    body=llama.ModelBody,
    result=gateway_types.Success,
    errors=_MODEL_ERRORS,
    example={"model": "demo"},
)

OPERATIONS: dict[Handler, Operation] = {
    chat.create_chat_completion: Operation(
        tag=OPENAI,
        body=ChatBody,
        result=openai_types.ChatCompletion,
        event=openai_types.ChatCompletionChunk,
        example={"model": "demo", "messages": _HELLO},
        is_call=True,
    ),
    completions.create_completion: Operation(
        tag=OPENAI,
        body=completions.CompletionBody,
        result=openai_types.TextCompletion,
        event=openai_types.TextCompletionChunk,
        example={"model": "demo", "prompt": "Hello"},
        notes="The prompt becomes the message of a user, as the engine knows chats only.",
        is_call=True,
    ),
    embeddings.create_embeddings: Operation(
        tag=OPENAI,
        body=embeddings.EmbeddingsBody,
        result=openai_types.EmbeddingList,
        example={"model": "my-embedder", "input": ["a text", "another text"]},
        is_call=True,
    ),
    transcriptions.create_transcription: Operation(
        tag=OPENAI,
        form=transcriptions.TranscriptionForm,
        result=openai_types.TranscriptionObject,
        event=openai_types.TranscriptEvent,
        media_types=(("text/plain", _TEXT),),
        notes="Text with `response_format: text`.",
        is_call=True,
    ),
    responses.create_response: Operation(
        tag=OPENAI,
        body=ResponseBody,
        result=openai_types.ResponseObject,
        event=openai_types.ResponseEvent,
        example={"model": "demo", "input": "Hello"},
        is_call=True,
    ),
    responses.count_input_tokens: Operation(
        tag=OPENAI,
        body=ResponseBody,
        result=openai_types.InputTokens,
        example={"model": "demo", "input": "Hello"},
        is_call=True,
    ),
    responses.list_responses: Operation(
        tag=OPENAI,
        result=openai_types.ResponseList,
        parameters=_describe_page(responses.DEFAULT_PAGE, responses.MAX_PAGE),
    ),
    responses.get_response: Operation(
        tag=OPENAI,
        result=openai_types.ResponseObject,
        parameters=(
            _make_parameter(
                "query", "stream", {"enum": ["false"]}, "A stored response is not streamed."
            ),
        ),
    ),
    responses.delete_response: Operation(tag=OPENAI, result=openai_types.DeletedResponse),
    responses.cancel_response: Operation(
        tag=OPENAI, result=openai_types.ResponseObject, errors=(409,)
    ),
    responses.list_input_items: Operation(
        tag=OPENAI,
        result=openai_types.InputItemList,
        parameters=_describe_page(responses.DEFAULT_PAGE, responses.MAX_PAGE),
    ),
    models.list_models: Operation(tag=OPENAI, result=openai_types.ModelList, errors=(504,)),
    models.get_model: Operation(tag=OPENAI, result=openai_types.ModelObject, errors=(504,)),
    files.create_file: Operation(
        tag=OPENAI, form=files.FileForm, result=FileObject, errors=(404, 409, 507)
    ),
    files.list_files: Operation(
        tag=OPENAI,
        result=FileList,
        parameters=(
            *_describe_page(files.MAX_PAGE, files.MAX_PAGE),
            _make_parameter("query", "purpose", _TEXT, "Only files with this purpose."),
        ),
    ),
    files.get_file: Operation(tag=OPENAI, result=FileObject),
    files.delete_file: Operation(tag=OPENAI, result=DeletedFile, errors=(409,)),
    files.get_file_content: Operation(tag=OPENAI, media_types=(("application/octet-stream", {}),)),
    batches.create_batch: Operation(
        tag=OPENAI,
        body=batches.BatchBody,
        result=BatchObject,
        errors=(404,),
        example={
            "input_file_id": "file-0123456789abcdef",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    ),
    batches.list_batches: Operation(
        tag=OPENAI,
        result=BatchList,
        parameters=_describe_page(batches.DEFAULT_PAGE, batches.MAX_PAGE),
    ),
    batches.get_batch: Operation(tag=OPENAI, result=BatchObject),
    batches.cancel_batch: Operation(tag=OPENAI, result=BatchObject, errors=(409,)),
    messages.create_message: Operation(
        tag=ANTHROPIC,
        body=MessagesBody,
        result=anthropic_types.AnthropicMessage,
        event=anthropic_types.AnthropicEvent,
        example={"model": "demo", "max_tokens": 64, "messages": _HELLO},
        is_call=True,
    ),
    messages.count_tokens: Operation(
        tag=ANTHROPIC,
        body=CountBody,
        result=anthropic_types.TokenCount,
        example={"model": "demo", "messages": _HELLO},
        is_call=True,
    ),
    message_batches.create_message_batch: Operation(
        tag=ANTHROPIC,
        body=message_batch_types.MessageBatchBody,
        result=message_batch_types.MessageBatch,
        errors=(404, 507),
        example={
            "requests": [
                {
                    "custom_id": "first",
                    "params": {"model": "demo", "max_tokens": 64, "messages": _HELLO},
                }
            ]
        },
        notes="If a request is invalid, the batch is refused and none runs.",
    ),
    message_batches.list_message_batches: Operation(
        tag=ANTHROPIC,
        result=message_batch_types.MessageBatchList,
        parameters=(
            _describe_limit(message_batches.DEFAULT_PAGE, message_batches.MAX_PAGE),
            _make_parameter("query", "after_id", _TEXT, "The id of the batch before the page."),
            _make_parameter("query", "before_id", _TEXT, "The id of the batch after the page."),
        ),
    ),
    message_batches.get_message_batch: Operation(
        tag=ANTHROPIC, result=message_batch_types.MessageBatch
    ),
    message_batches.cancel_message_batch: Operation(
        tag=ANTHROPIC, result=message_batch_types.MessageBatch, errors=(409,)
    ),
    message_batches.delete_message_batch: Operation(
        tag=ANTHROPIC, result=message_batch_types.DeletedMessageBatch, errors=(409,)
    ),
    message_batches.get_message_batch_results: Operation(
        tag=ANTHROPIC,
        media_types=((message_batches.RESULTS_TYPE, _TEXT),),
        notes="Each line is JSON with `custom_id` and `result`, whose `type` is `succeeded`, "
        "`errored`, `canceled` or `expired`.",
    ),
    management.get_status: Operation(tag=MANAGEMENT, result=gateway_types.GatewayStatus),
    management.reload: Operation(tag=MANAGEMENT, result=gateway_types.Reloaded),
    management.list_all_models: Operation(
        tag=MANAGEMENT,
        result=gateway_types.GatewayModelList,
        parameters=(
            _make_parameter(
                "query", "catalog", {"enum": ["true", "false"]}, "Also the models of the catalog."
            ),
        ),
        errors=_MODEL_ERRORS,
    ),
    management.load_model: _MODEL_COMMAND,
    management.unload_model: _MODEL_COMMAND,
    management.pull_model: Operation(
        tag=MANAGEMENT, event=gateway_types.PullEvent, errors=_MODEL_ERRORS
    ),
    management.remove_model: Operation(
        tag=MANAGEMENT, result=gateway_types.RemovedModel, errors=_MODEL_ERRORS
    ),
    management.list_calls: Operation(tag=MANAGEMENT, result=dashboard_types.CallList),
    management.stop_call: Operation(tag=MANAGEMENT, result=dashboard_types.StoppedCall),
    management.list_failures: Operation(
        tag=MANAGEMENT,
        result=dashboard_types.FailureList,
        notes="Failures of authentication are in the audit log only.",
    ),
    management.get_log: Operation(tag=MANAGEMENT, result=dashboard_types.AuditEvents),
    key_management.list_keys: Operation(tag=KEYS, result=dashboard_types.KeyList),
    key_management.create_key: Operation(
        tag=KEYS,
        body=key_management.NewKeyBody,
        result=dashboard_types.CreatedKey,
        example={"name": "my-app", "rate": "60/m", "tokens": ["100000/d"], "expires": "90d"},
        notes="A key gives no rights that it lacks. The first key is created with "
        "`foundry-api keys create`.",
    ),
    key_management.update_key: Operation(
        tag=KEYS,
        body=key_management.PermissionsBody,
        result=dashboard_types.KeyAnswer,
        errors=(409,),
        example={"rate": "120/m", "tokens": []},
    ),
    key_management.rotate_key: Operation(
        tag=KEYS,
        body=key_management.GraceBody,
        result=dashboard_types.CreatedKey,
        errors=(409,),
        example={"grace": "24h"},
    ),
    key_management.revoke_key: Operation(tag=KEYS, result=dashboard_types.KeyAnswer, errors=(409,)),
    key_management.remove_key: Operation(
        tag=KEYS, result=dashboard_types.RemovedKey, errors=(409,)
    ),
    static_files.get_index: Operation(tag=DASHBOARD, media_types=(("text/html", _TEXT),)),
    static_files.get_asset: Operation(
        tag=DASHBOARD,
        media_types=(("text/javascript", _TEXT), ("text/css", _TEXT), ("image/svg+xml", _TEXT)),
    ),
    sign_in.get_session: Operation(tag=DASHBOARD, result=dashboard_types.SessionState),
    sign_in.sign_in: Operation(
        tag=DASHBOARD,
        result=dashboard_types.SessionState,
        notes="The cookie of the answer stands for the key for 12 hours, or as long as the key is "
        "valid. It changes something only for pages of the gateway.",
    ),
    sign_in.sign_out: Operation(tag=DASHBOARD, result=dashboard_types.SessionState),
    live.stream_live: Operation(
        tag=DASHBOARD,
        event=dashboard_types.LiveEvent,
        notes="One event a second. The stream has no end.",
    ),
    live.get_history: Operation(
        tag=DASHBOARD,
        result=dashboard_types.HistoryWindow,
        parameters=(
            _make_parameter(
                "query", "window", {"enum": list(WINDOWS)}, "How far back; 15m without it."
            ),
        ),
    ),
    llama.list_llama_models: Operation(
        tag=LLAMA, result=gateway_types.LlamaModelList, errors=_MODEL_ERRORS
    ),
    llama.load_llama_model: _LLAMA_COMMAND,
    llama.unload_llama_model: _LLAMA_COMMAND,
    llama.download_llama_model: _LLAMA_COMMAND,
    llama.delete_llama_model: Operation(
        tag=LLAMA,
        result=gateway_types.Success,
        errors=_MODEL_ERRORS,
        parameters=(_make_parameter("query", "model", _TEXT, "The model to delete."),),
    ),
    llama.stream_llama_events: Operation(
        tag=LLAMA,
        event=gateway_types.LlamaEvent,
        notes="The stream has no end.",
    ),
    health.get_service_status: Operation(tag=HEALTH, result=gateway_types.ServiceState),
    health.get_health: Operation(tag=HEALTH, result=gateway_types.Health),
    health.get_readiness: Operation(
        tag=HEALTH,
        result=gateway_types.Readiness,
        statuses=(503,),
        notes="The reasons are at `/api/status`.",
    ),
    health.get_metrics: Operation(tag=HEALTH, media_types=((METRICS_TYPE, _TEXT),)),
}


def describe_self(get_openapi: Handler, get_docs: Handler) -> dict[Handler, Operation]:
    """Return the operations of the routes that describe the API."""
    return {
        get_openapi: Operation(tag=HEALTH, media_types=(("application/json", {"type": "object"}),)),
        get_docs: Operation(tag=HEALTH, media_types=(("text/html", _TEXT),)),
    }
