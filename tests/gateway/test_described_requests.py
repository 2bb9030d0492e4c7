"""Requests that schemathesis makes from `/openapi.json`: it describes every answer to them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from foundry_api.gateway.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.gateway.gateway import Gateway

EXAMPLES = 3
LEFT_OUT = {
    # They change the models of the engine that all tests share.
    ("DELETE", "/api/models/{id}"),
    ("POST", "/api/models/{id}/unload"),
    ("DELETE", "/models"),
    ("POST", "/models/unload"),
    # They ask the catalog on the Internet.
    ("POST", "/api/models/{id}/pull"),
    ("POST", "/models"),
    ("POST", "/api/models/{id}/load"),
    ("POST", "/models/load"),
    # They have no end.
    ("GET", "/models/sse"),
    ("GET", "/api/live"),
}
MODELS = {"EmbeddingsBody": "embedder", "TranscriptionForm": "transcriber"}
DOCUMENT: dict[str, Any] = ROUTES[-1].handler.__self__.document  # type: ignore[attr-defined]

DOCUMENT_TEXT = json.dumps(DOCUMENT)


def list_cases() -> Iterator[tuple[str, str, str]]:
    """Yield the operations, and whether requests fit their description."""
    for route in ROUTES:
        # Those under /openai have the same handlers.
        if route.path.startswith("/openai/") or (route.method, route.path) in LEFT_OUT:
            continue
        yield route.method, route.path, "positive"
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        if operation["parameters"] or "requestBody" in operation:  # which may be wrong
            yield route.method, route.path, "negative"


@pytest.mark.parametrize(("method", "path", "mode"), [*list_cases()])
async def test_every_answer_is_described(
    gateway: Gateway, method: str, path: str, mode: str
) -> None:
    await asyncio.to_thread(run_examples, gateway.url, method, path, mode)


def run_examples(url: str, method: str, path: str, mode: str) -> None:
    """Send requests that fit the description of an operation, or that do not."""
    import schemathesis  # noqa: PLC0415 - it takes a second, which other tests need not wait
    from schemathesis.specs.openapi import checks  # noqa: PLC0415

    # One document for each operation, as schemathesis keeps what it learns of one.
    config = schemathesis.Config()  # none that lies in a directory above
    operation = schemathesis.openapi.from_dict(make_document(), config=config)[path][method]
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def send(case: schemathesis.Case) -> None:
        response = case.call(base_url=url, timeout=60)
        # 503 and 504 are answers to requests with a short deadline, and described.
        assert response.status_code in {503, 504} or response.status_code < 500
        case.validate_response(
            response,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_headers_conformance,
                checks.response_schema_conformance,
            ],
        )

    send()


def make_document() -> dict[str, Any]:
    """Return the description, without what only ends in a refusal or takes long.

    Without it, nearly every request would have a member that the engine cannot do.
    """
    document: dict[str, Any] = json.loads(DOCUMENT_TEXT)
    for name, schema in document["components"]["schemas"].items():
        members = schema.get("properties", {})
        if not name.endswith(("Body", "Form")):
            continue
        for member in [member for member in members if is_refused(members[member])]:
            del members[member]
        if "model" in members:
            members["model"] = {"enum": [MODELS.get(name, "scripted")]}
        for limit in {"max_tokens", "max_completion_tokens", "max_output_tokens"} & members.keys():
            members[limit] = {"type": "integer", "minimum": 1, "maximum": 9}
    return document


def is_refused(schema: dict[str, Any]) -> bool:
    return schema.get("description", "").startswith("Refused")
