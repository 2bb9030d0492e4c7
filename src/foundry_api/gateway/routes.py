"""The route table of the gateway."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from foundry_api.gateway import key_management, llama, management
from foundry_api.gateway.anthropic import batches as message_batches
from foundry_api.gateway.anthropic.errors import make_anthropic_error
from foundry_api.gateway.anthropic.messages import count_tokens, create_message
from foundry_api.gateway.batches.routes import (
    cancel_batch,
    create_batch,
    get_batch,
    list_batches,
)
from foundry_api.gateway.dashboard.live import get_history, stream_live
from foundry_api.gateway.dashboard.sign_in import get_session, sign_in, sign_out
from foundry_api.gateway.dashboard.static_files import get_asset, get_index
from foundry_api.gateway.health import (
    get_health,
    get_metrics,
    get_readiness,
    get_service_status,
)
from foundry_api.gateway.openai.chat import create_chat_completion
from foundry_api.gateway.openai.completions import create_completion
from foundry_api.gateway.openai.embeddings import create_embeddings
from foundry_api.gateway.openai.files import (
    create_file,
    delete_file,
    get_file,
    get_file_content,
    list_files,
)
from foundry_api.gateway.openai.models import get_model, list_models
from foundry_api.gateway.openai.responses import (
    cancel_response,
    count_input_tokens,
    create_response,
    delete_response,
    get_response,
    list_input_items,
    list_responses,
)
from foundry_api.gateway.openai.transcriptions import create_transcription
from foundry_api.gateway.openapi.description import ApiDescription
from foundry_api.gateway.routing import Route

if TYPE_CHECKING:
    from foundry_api.gateway.routing import Access, Handler

__all__ = ["ROUTES"]

_INFERENCE = (
    Route(
        "POST",
        "/v1/chat/completions",
        create_chat_completion,
        "inference",
        "Answer a conversation.",
    ),
    Route("POST", "/v1/completions", create_completion, "inference", "Complete a text."),
    Route("POST", "/v1/embeddings", create_embeddings, "inference", "Embed texts."),
    Route(
        "POST",
        "/v1/audio/transcriptions",
        create_transcription,
        "inference",
        "Transcribe a recording.",
    ),
    Route("POST", "/v1/responses", create_response, "inference", "Answer an input."),
    Route(
        "POST",
        "/v1/responses/input_tokens",
        count_input_tokens,
        "inference",
        "Estimate the tokens of an input.",
    ),
    Route("GET", "/v1/responses", list_responses, "inference", "List stored responses."),
    Route("GET", "/v1/responses/{id}", get_response, "inference", "Return a stored response."),
    Route(
        "DELETE", "/v1/responses/{id}", delete_response, "inference", "Forget a stored response."
    ),
    Route(
        "POST",
        "/v1/responses/{id}/cancel",
        cancel_response,
        "inference",
        "Cancel a response that runs in the background.",
    ),
    Route(
        "GET",
        "/v1/responses/{id}/input_items",
        list_input_items,
        "inference",
        "List the input of a stored response.",
    ),
    Route("POST", "/v1/files", create_file, "inference", "Upload a file for a batch."),
    Route("GET", "/v1/files", list_files, "inference or manage", "List files."),
    Route("GET", "/v1/files/{id}", get_file, "inference or manage", "Describe a file."),
    Route("DELETE", "/v1/files/{id}", delete_file, "inference or manage", "Delete a file."),
    Route(
        "GET",
        "/v1/files/{id}/content",
        get_file_content,
        "inference or manage",
        "Return the content of a file.",
    ),
    Route("POST", "/v1/batches", create_batch, "inference", "Run the lines of a file."),
    Route("GET", "/v1/batches", list_batches, "inference or manage", "List batches."),
    Route("GET", "/v1/batches/{id}", get_batch, "inference or manage", "Describe a batch."),
    Route(
        "POST",
        "/v1/batches/{id}/cancel",
        cancel_batch,
        "inference or manage",
        "Cancel a batch; what was answered is kept.",
    ),
    Route("GET", "/v1/models", list_models, "inference", "List the models."),
    Route("GET", "/v1/models/{id}", get_model, "inference", "Return one model."),
)

# Azure's clients use this prefix.
_AZURE = tuple(replace(route, path=f"/openai{route.path}") for route in _INFERENCE)
# `AzureOpenAI` puts the model, as a deployment, into the path of these.
_DEPLOYMENTS = tuple(
    replace(route, path=route.path.replace("/v1/", "/openai/deployments/{id}/"))
    for route in _INFERENCE
    if route.path
    in {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
    }
)


def _manage(method: str, path: str, handler: Handler, summary: str, action: str = "") -> Route:
    return Route(method, path, handler, "manage", summary, action=action)


_MANAGEMENT = (
    _manage("GET", "/api/status", management.get_status, "Return queue and problems."),
    _manage("POST", "/api/reload", management.reload, "Read keys and TLS files again.", "reload"),
    Route(
        "GET",
        "/api/models",
        management.list_all_models,
        "inference or manage",
        "List models and states.",
    ),
    _manage("POST", "/api/models/{id}/load", management.load_model, "Load a model.", "model.load"),
    _manage(
        "POST",
        "/api/models/{id}/unload",
        management.unload_model,
        "Unload a model.",
        "model.unload",
    ),
    _manage(
        "POST", "/api/models/{id}/pull", management.pull_model, "Download a model.", "model.pull"
    ),
    _manage(
        "DELETE", "/api/models/{id}", management.remove_model, "Delete a model.", "model.remove"
    ),
    _manage("GET", "/api/calls", management.list_calls, "List the calls that run or wait."),
    _manage("POST", "/api/calls/{id}/stop", management.stop_call, "End a call.", "call.stop"),
    _manage(
        "GET", "/api/failures", management.list_failures, "List the last requests that failed."
    ),
    _manage("GET", "/api/log", management.get_log, "Return the last events of the audit log."),
    _manage("GET", "/api/keys", key_management.list_keys, "List the keys."),
    _manage("POST", "/api/keys", key_management.create_key, "Create a key.", "key.create"),
    _manage(
        "POST", "/api/keys/{id}/update", key_management.update_key, "Change a key.", "key.update"
    ),
    _manage(
        "POST", "/api/keys/{id}/rotate", key_management.rotate_key, "Renew a token.", "key.rotate"
    ),
    _manage("POST", "/api/keys/{id}/revoke", key_management.revoke_key, "End a key.", "key.revoke"),
    _manage("DELETE", "/api/keys/{id}", key_management.remove_key, "Delete a key.", "key.remove"),
    # The routes of llama.cpp's router, through which Open WebUI manages models.
    _manage("GET", "/models", llama.list_llama_models, "List models as llama.cpp."),
    _manage("POST", "/models", llama.download_llama_model, "Start a download.", "model.pull"),
    _manage("DELETE", "/models", llama.delete_llama_model, "Delete a model.", "model.remove"),
    _manage("POST", "/models/load", llama.load_llama_model, "Load a model.", "model.load"),
    _manage("POST", "/models/unload", llama.unload_llama_model, "Unload a model.", "model.unload"),
    _manage("GET", "/models/sse", llama.stream_llama_events, "Stream events of models."),
)

_DASHBOARD = (
    Route("GET", "/", get_index, "open", "Show the page of the gateway."),
    Route("GET", "/assets/{id}", get_asset, "open", "Return a file of the page."),
    Route("GET", "/api/session", get_session, "open", "Has this browser signed in?"),
    Route(
        "POST",
        "/api/session",
        sign_in,
        "inference or manage or metrics",
        "Sign a browser in.",
        action="session.start",
    ),
    Route(
        "DELETE",
        "/api/session",
        sign_out,
        "inference or manage or metrics",
        "Sign a browser out.",
        action="session.end",
    ),
)

_LIVE = (
    Route(
        "GET",
        "/api/live",
        stream_live,
        "inference or manage or metrics",
        "Stream the state of the gateway.",
    ),
    Route(
        "GET",
        "/api/history",
        get_history,
        "manage or metrics",
        "Return the recent past for plots.",
    ),
)

_ANTHROPIC = (
    Route(
        "POST",
        "/v1/messages",
        create_message,
        "inference",
        "Answer a conversation, in Anthropic's form.",
        make_anthropic_error,
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        count_tokens,
        "inference",
        "Estimate the tokens of a conversation, in Anthropic's form.",
        make_anthropic_error,
    ),
)


def _batch_messages(method: str, path: str, handler: Handler, summary: str) -> Route:
    access: Access = "inference" if (method, path) == ("POST", "") else "inference or manage"
    path = f"/v1/messages/batches{path}"
    return Route(method, path, handler, access, summary, make_anthropic_error)


_MESSAGE_BATCHES = (
    _batch_messages(
        "POST", "", message_batches.create_message_batch, "Answer a batch of conversations."
    ),
    _batch_messages("GET", "", message_batches.list_message_batches, "List message batches."),
    _batch_messages("GET", "/{id}", message_batches.get_message_batch, "Describe a message batch."),
    _batch_messages(
        "DELETE",
        "/{id}",
        message_batches.delete_message_batch,
        "Delete a message batch with its results.",
    ),
    _batch_messages(
        "POST",
        "/{id}/cancel",
        message_batches.cancel_message_batch,
        "Cancel a message batch; what was answered is kept.",
    ),
    _batch_messages(
        "GET",
        "/{id}/results",
        message_batches.get_message_batch_results,
        "Return the results of a message batch.",
    ),
)

ROUTES = ApiDescription(
    (
        Route("GET", "/healthz", get_health, "open", "Is the gateway alive?"),
        Route("GET", "/readyz", get_readiness, "open", "Can the gateway serve calls?"),
        # By this route a client of this package recognises a gateway.
        Route(
            "GET",
            "/status",
            get_service_status,
            "inference or manage",
            "Return the state of the gateway.",
        ),
        Route("GET", "/metrics", get_metrics, "metrics", "Return metrics for Prometheus."),
        *_INFERENCE,
        *_AZURE,
        *_DEPLOYMENTS,
        *_ANTHROPIC,
        *_MESSAGE_BATCHES,
        *_MANAGEMENT,
        *_DASHBOARD,
        *_LIVE,
    )
).routes
