"""`/openapi.json` and `/docs`: complete, true, and safe to open."""

from __future__ import annotations

import ast
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

import foundry_api.gateway
from foundry_api.gateway.errors import _TABLE
from foundry_api.gateway.keys.types import NewKey
from foundry_api.gateway.openapi.document import ERRORS
from foundry_api.gateway.openapi.page import format_page
from foundry_api.gateway.routes import ROUTES
from foundry_api.testing import FakeService
from gateway.helpers import CALCULATE
from gateway.serving import serve
from gateway.shapes import parse_events

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

SOURCES = Path(foundry_api.gateway.__file__).parent
HELLO = [{"role": "user", "content": "say-hello"}]
CALL = [{"role": "user", "content": "call-calculate"}]
MODEL = {"model": "scripted"}
STREAM = {"stream": True}
TOOL = {"name": "calculate", "parameters": CALCULATE}
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES = "/v1/messages"
BATCHES = f"{MESSAGES}/batches"
SCRIPTED = {**MODEL, "messages": HELLO}
TOOLS = {**MODEL, "messages": CALL, "tools": [{"type": "function", "function": TOOL}]}
MESSAGE = {**SCRIPTED, "max_tokens": 100}
TOOL_MESSAGE = {
    **MESSAGE,
    "messages": CALL,
    "tools": [{"name": "calculate", "input_schema": CALCULATE}],
}
BATCH = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}

# A method, a path, a body and the expected status.
CALLS: list[tuple[str, str, Any, int]] = [
    ("GET", "/healthz", None, 200),
    ("GET", "/readyz", None, 200),
    ("GET", "/metrics", None, 200),
    ("GET", "/openapi.json", None, 200),
    ("GET", "/docs", None, 200),
    ("GET", "/v1/models", None, 200),
    ("GET", "/openai/v1/models/scripted", None, 200),
    ("GET", "/v1/models/junk", None, 404),
    ("POST", CHAT, SCRIPTED, 200),
    ("POST", CHAT, {**SCRIPTED, **STREAM, "stream_options": {"include_usage": True}}, 200),
    ("POST", CHAT, TOOLS, 200),
    ("POST", CHAT, {**TOOLS, **STREAM}, 200),
    ("POST", CHAT, {**SCRIPTED, "n": 9}, 400),
    ("POST", CHAT, {**SCRIPTED, "model": "junk"}, 404),
    ("POST", TEXT, {**MODEL, "prompt": "say-hello"}, 200),
    ("POST", TEXT, {**MODEL, **STREAM, "prompt": "say-hello", "echo": True}, 200),
    ("POST", "/v1/embeddings", {"model": "embedder", "input": ["a", "b"]}, 200),
    (
        "POST",
        "/v1/embeddings",
        {"model": "embedder", "input": "a", "encoding_format": "base64"},
        200,
    ),
    ("POST", RESPONSES, {**MODEL, "input": "say-hello", "temperature": 0}, 200),
    ("POST", RESPONSES, {**MODEL, **STREAM, "input": "say-hello"}, 200),
    (
        "POST",
        RESPONSES,
        {**MODEL, **STREAM, "input": CALL, "tools": [{"type": "function", **TOOL}]},
        200,
    ),
    ("POST", RESPONSES, {**MODEL, "input": ""}, 400),
    ("POST", f"{RESPONSES}/input_tokens", {**MODEL, "input": "say-hello"}, 200),
    ("GET", f"{RESPONSES}/resp_none", None, 404),
    ("POST", MESSAGES, MESSAGE, 200),
    ("POST", MESSAGES, {**MESSAGE, **STREAM}, 200),
    ("POST", MESSAGES, TOOL_MESSAGE, 200),
    ("POST", MESSAGES, {**TOOL_MESSAGE, **STREAM}, 200),
    ("POST", MESSAGES, {"messages": []}, 400),
    ("POST", f"{MESSAGES}/count_tokens", SCRIPTED, 200),
    ("POST", BATCHES, {"requests": [{"custom_id": "a", "params": MESSAGE}]}, 200),
    ("POST", BATCHES, {"requests": [{"custom_id": "a", "params": STREAM}]}, 400),
    ("GET", BATCHES, None, 200),
    ("GET", f"{BATCHES}/msgbatch_none", None, 404),
    ("GET", f"{BATCHES}/msgbatch_none/results", None, 404),
    ("POST", f"{BATCHES}/msgbatch_none/cancel", None, 404),
    ("DELETE", f"{BATCHES}/msgbatch_none", None, 404),
    ("GET", "/api/status", None, 200),
    ("GET", "/api/models", None, 200),
    ("GET", "/api/models?catalog=junk", None, 400),
    ("POST", "/api/models/scripted/load", None, 200),
    ("POST", "/api/models/scripted/pull", None, 400),
    ("GET", "/v1/files", None, 200),
    ("GET", "/v1/files/file-none", None, 404),
    ("GET", "/v1/batches", None, 200),
    ("GET", "/v1/batches/batch_none", None, 404),
    ("POST", "/v1/batches", {**BATCH, "completion_window": "1h"}, 400),
    ("POST", "/v1/batches", BATCH, 404),
    ("POST", "/api/reload", None, 200),
    ("GET", "/models", None, 200),
    ("POST", "/models/load", MODEL, 200),
    ("GET", "/", None, 200),
    ("GET", "/assets/app.js", None, 200),
    ("GET", "/assets/style.css", None, 200),
    ("GET", "/assets/icon.svg", None, 200),
    ("GET", "/assets/junk.js", None, 404),
    ("GET", "/api/session", None, 200),
    ("POST", "/api/session", None, 200),
    ("DELETE", "/api/session", None, 200),
    ("GET", "/api/history", None, 200),
    ("GET", "/api/history?window=junk", None, 400),
    ("GET", "/api/calls", None, 200),
    ("POST", "/api/calls/req_none/stop", None, 404),
    ("GET", "/api/failures", None, 200),
    ("GET", "/api/log", None, 200),
    ("GET", "/api/keys", None, 200),
    ("POST", "/api/keys", {"name": "ci"}, 403),
    ("DELETE", "/api/keys/none", None, 404),
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    document: dict[str, Any] = ROUTES[-1].handler.__self__.document  # type: ignore[attr-defined]
    return document


@pytest.fixture(scope="module")
def strict(document: dict[str, Any]) -> dict[str, Any]:
    """The schemas, without members that they do not describe."""
    return {
        name: {**schema, "additionalProperties": False} if "properties" in schema else schema
        for name, schema in document["components"]["schemas"].items()
    }


def check(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator({**schema, "components": {"schemas": schemas}})
    problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not problems


def find_operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    for template, methods in document["paths"].items():
        pattern = re.escape(template).replace(r"\{id\}", "[^/]+")
        if re.fullmatch(pattern, path) and method.lower() in methods:
            return methods[method.lower()]
    raise AssertionError(path)


def test_every_route_is_described(document: dict[str, Any]) -> None:
    described = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert described == {(route.method, route.path) for route in ROUTES}
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert bool(operation["security"]) == (route.access != "open")
        for requirement in operation["security"]:
            assert list(requirement.values()) == [route.access.split(" or ")]
            assert requirement.keys() <= document["components"]["securitySchemes"].keys()


def test_all_references_exist(document: dict[str, Any]) -> None:
    references = re.findall(r"'#/([\w/.]+)'", str(document))
    assert len(references) > 100
    for reference in references:
        target = document
        for name in reference.split("/"):
            target = target[name]


def test_every_code_of_an_error_is_described() -> None:
    found = {(status, code) for _, status, code in _TABLE}
    # The codes of invalid lines are in the description of a batch, not in a response.
    of_lines = SOURCES / "batches" / "validation.py"
    for file in set(SOURCES.rglob("*.py")) - {of_lines}:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "RequestError":
                continue
            status, code = (getattr(value, "value", None) for value in node.args[:2])
            if isinstance(status, int) and isinstance(code, str):
                found.add((status, code))
    described = {(status, code) for status, (_, codes) in ERRORS.items() for code in codes}
    assert len(found) > 40
    assert found <= described


def test_limits_and_meanings_are_described(document: dict[str, Any]) -> None:
    members = document["components"]["schemas"]["ChatBody"]["properties"]
    assert members["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 8}
    assert members["n"]["description"] == "How many answers to generate."
    assert members["messages"]["description"] == "The conversation."
    assert members["messages"]["minItems"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    CALLS,
    ids=[f"{method} {path} {index}" for index, (method, path, _, _) in enumerate(CALLS)],
)
async def test_an_answer_has_the_described_form(  # noqa: PLR0917 - two are fixtures of a module
    document: dict[str, Any],
    strict: dict[str, Any],
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    body: Any,
    status: int,
) -> None:
    operation = find_operation(document, method, path.partition("?")[0])
    async with http.request(method, path, json=body) as response:
        text = await response.text()
        assert response.status == status, text
        assert response.headers["x-request-id"]
        answer = operation["responses"][str(status)]
        if "$ref" in answer:
            answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        kinds = {name.partition(";")[0]: media for name, media in answer["content"].items()}
        media = kinds[response.content_type]
        if response.content_type == "text/event-stream":
            events = [event for event in parse_events(text) if event != "[DONE]"]
            assert events
            for event in events:
                check(event, media["x-itemSchema"], strict)
        elif response.content_type == "application/json":
            check(await response.json(), media["schema"], strict)
        else:
            assert text


@pytest.mark.parametrize(("name", "status"), [("ci", 200), ("", 400)])
async def test_a_new_key_has_the_described_form(
    document: dict[str, Any], strict: dict[str, Any], tmp_path: Path, name: str, status: int
) -> None:
    operation = find_operation(document, "POST", "/api/keys")
    admin = NewKey(name="admin", scopes=frozenset({"inference", "manage"}))
    body = {"name": name, "tokens": ["100000/d"], "rate": "60/m"}
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, admin) as served,
        served.http.post("/api/keys", json=body) as response,
    ):
        answer = operation["responses"][str(status)]
        if "$ref" in answer:
            answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        assert response.status == status
        check(await response.json(), answer["content"]["application/json"]["schema"], strict)


async def test_the_page_needs_nothing_else(http: aiohttp.ClientSession) -> None:
    async with http.get("/docs") as response:
        page = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    elements = find_elements(page)
    assert not {name for name, _ in elements} & {"script", "img", "iframe", "form", "object"}
    links = {attributes.get("href") for name, attributes in elements if "href" in attributes}
    anchors = {attributes["id"] for _, attributes in elements if "id" in attributes}
    assert links - {f"#{anchor}" for anchor in anchors} == {"data:,", "/openapi.json"}
    for route in ROUTES:
        assert route.path.replace("/", "<wbr>/") in page


def test_texts_of_the_page_are_escaped(document: dict[str, Any]) -> None:
    page = format_page(_spoil(document))
    assert "evil" in page
    assert "<evil" not in page.replace("&lt;evil", "")
    assert not {name for name, _ in find_elements(page)} & {"evil", "script"}
    assert all("onload" not in attributes for _, attributes in find_elements(page))


def _spoil(value: Any, name: str = "") -> Any:
    """Return a document with HTML in all its texts and names."""
    evil = "<evil>'\" onload=x `<evil>`"
    if isinstance(value, dict):
        own = {"properties": evil, "schemas": "", "paths": ""}.get(name, "")
        return {f"{key}{own}": _spoil(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_spoil(item, name) for item in value]
    if isinstance(value, str) and name in {"description", "summary", "title", "version"}:
        return value + evil
    return value


def find_elements(page: str) -> list[tuple[str, Mapping[str, str]]]:
    found: list[tuple[str, Mapping[str, str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, {name: value or "" for name, value in attrs}))

    Reader().feed(page)
    return found
