"""The route table of the gateway."""

from __future__ import annotations

from foundry_api.gateway.health import get_health, get_readiness
from foundry_api.gateway.openai.chat import create_chat_completion
from foundry_api.gateway.openai.completions import create_completion
from foundry_api.gateway.openai.embeddings import create_embeddings
from foundry_api.gateway.openai.models import get_model, list_models
from foundry_api.gateway.routing import Route

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
    Route("GET", "/v1/models", list_models, "inference", "List the models."),
    Route("GET", "/v1/models/{id}", get_model, "inference", "Return one model."),
)

# Azure's clients use this prefix.
_AZURE = tuple(
    Route(route.method, f"/openai{route.path}", route.handler, route.access, route.summary)
    for route in _INFERENCE
)

ROUTES = (
    Route("GET", "/healthz", get_health, "open", "Is the gateway alive?"),
    Route("GET", "/readyz", get_readiness, "open", "Can the gateway serve calls?"),
    *_INFERENCE,
    *_AZURE,
)
