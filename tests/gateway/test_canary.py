"""P18: a key and a prompt are in no log, metric, trace, file or page. See `canary.py`.

The fixture `canary` watches every test of the gateway. Here, calls of all kinds carry the canaries,
with logs and traces on, and tests show that the watch finds what it looks for.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from foundry_api.gateway import generation
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from foundry_api.gateway.routes import ROUTES
from foundry_api.observe.call_log import CallLog
from foundry_api.observe.otel import OpenTelemetry
from foundry_api.storage.paths import Paths
from foundry_api.testing import Disconnect, ErrorReply, FakeService, Stall
from gateway.canary import CANARY, CANARY_KEY, CanaryHandler, find_in_files, find_secrets
from gateway.serving import CHAT, make_body, serve
from gateway.test_transcriptions import make_form

if TYPE_CHECKING:
    from collections.abc import Iterator

    import aiohttp

    from foundry_api.engine.endpoint import Endpoint
    from gateway.serving import ServedGateway

ALL_SCOPES = NewKey(name="all", scopes=frozenset({"inference", "manage", "metrics"}))
PROMPT = f"{CANARY} say-hello"
MESSAGES = [{"role": "user", "content": PROMPT}]
TOOL = {"type": "function", "function": {"name": CANARY, "parameters": {"type": "object"}}}
BODIES: list[tuple[str, Any]] = [
    (CHAT, {"model": "scripted", "messages": MESSAGES}),
    (CHAT, {"model": "scripted", "messages": MESSAGES, "stream": True, "user": CANARY}),
    (CHAT, {"model": "scripted", "messages": MESSAGES, "tools": [TOOL], "n": 2}),
    (
        CHAT,
        {"model": "scripted", "messages": MESSAGES, "metadata": {"a": CANARY}},
    ),
    (CHAT, {"model": "scripted", "messages": [{"role": CANARY, "content": PROMPT}]}),
    (CHAT, {"model": "embedder", "messages": MESSAGES}),
    (CHAT, {"model": "scripted", "messages": MESSAGES, CANARY: CANARY, "logprobs": True}),
    ("/v1/completions", {"model": "scripted", "prompt": PROMPT}),
    ("/v1/responses", {"model": "scripted", "input": PROMPT, "instructions": CANARY}),
    ("/v1/responses", {"model": "scripted", "input": PROMPT, "stream": True}),
    ("/v1/messages", {"model": "scripted", "max_tokens": 20, "messages": MESSAGES}),
    ("/v1/messages/count_tokens", {"model": "scripted", "messages": MESSAGES}),
    ("/v1/embeddings", {"model": "embedder", "input": [PROMPT]}),
    ("/v1/embeddings", {"model": "scripted", "input": [PROMPT]}),
]


@pytest.fixture(autouse=True)
def verbose_log() -> Iterator[None]:
    """Let the package log everything that it can."""
    logger = logging.getLogger("foundry_api")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(level)


async def send_everything(served: ServedGateway) -> None:
    """Send the canaries in all places of requests, with a valid key and with the canary key."""
    for path, body in BODIES:
        await send(served.http, "POST", path, json=body)
    for path in (CHAT, "/v1/audio/transcriptions", f"/{CANARY}", f"/v1/models?key={CANARY}"):
        await send(served.http, "POST", path, data=f"{{{PROMPT}", headers={"X-Any": CANARY})
    await send(served.http, "POST", "/v1/audio/transcriptions", data=make_form(prompt=PROMPT))
    await send(
        served.http, "POST", "/v1/audio/transcriptions", data=make_form(PROMPT.encode(), a=CANARY)
    )
    headers = {"Idempotency-Key": CANARY}
    for _ in range(2):
        await send(served.http, "POST", CHAT, json=BODIES[0][1], headers=headers)
    for name in ("Authorization", "x-api-key", "Host", "Origin", "Cookie", "Content-Encoding"):
        value = f"Bearer {CANARY_KEY}" if name == "Authorization" else CANARY_KEY
        await send(served.http, "POST", CHAT, json=BODIES[0][1], headers={name: value})
    for route in ROUTES:
        # The first asks the catalog, and the others never end.
        if route.path not in {"/api/models/{id}/pull", "/models/sse", "/api/live"}:
            await send(served.http, route.method, route.path.replace("{id}", "junk"))


async def send(http: aiohttp.ClientSession, method: str, path: str, **options: Any) -> None:
    async with http.request(method, path, **options) as response:
        await response.read()
    assert response.status != 500


async def test_p18_calls_leave_no_trace_of_keys_and_prompts(
    tmp_path: Path, engine: Endpoint
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with serve(tmp_path, engine.base_url, ALL_SCOPES) as served:
        events = served.gateway.context.client.events
        events.subscribe(CallLog(logging.getLogger("foundry_api.calls")))
        events.subscribe(OpenTelemetry(tracer_provider=provider))
        await send_everything(served)
        async with served.http.get("/metrics") as metrics, served.http.get("/api/status") as status:
            assert not find_secrets(await metrics.read())
            assert not find_secrets(await status.read())
    spans = exporter.get_finished_spans()
    assert spans
    assert not find_secrets("".join(span.to_json() for span in spans))
    logs = Paths.from_home(Path(os.environ["FOUNDRY_TEST_HOME"])).logs
    assert list(logs.iterdir())
    assert not find_in_files(logs)  # of the process with the engine, and of the engine itself


@pytest.mark.parametrize(
    "reply",
    [
        ErrorReply(500, "failed"),
        ErrorReply(400, "refused"),
        Disconnect(PROMPT),
        Stall(PROMPT),
    ],
    ids=["500", "400", "disconnect", "stall"],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_p18_failures_leave_no_trace_either(
    tmp_path: Path, reply: Any, *, streamed: bool
) -> None:
    config = {"gap_timeout_s": 1.0, "first_token_timeout_s": 1.0}
    client = {"max_retries": 1}
    async with (
        FakeService(reply, reply, reply) as upstream,
        serve(tmp_path, upstream.base_url, ALL_SCOPES, config=config, client=client) as served,
    ):
        served.gateway.context.client.events.subscribe(
            CallLog(logging.getLogger("foundry_api.calls"))
        )
        await send(served.http, "POST", CHAT, json=make_body(PROMPT, "fake", stream=streamed))


async def test_p18_a_defect_of_the_gateway_logs_no_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback has the message of the exception, which may quote a part of the request."""

    async def fail(*_: Any, **__: Any) -> None:
        raise ValueError(f"invalid literal for int(): {PROMPT!r}")

    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, ALL_SCOPES) as served:
        monkeypatch.setattr(generation, "complete_messages", fail)
        async with served.http.post(CHAT, json=make_body(PROMPT, "fake")) as response:
            assert response.status == 500
            assert CANARY not in await response.text()


class TestTheWatch:
    """It finds what it looks for."""

    def test_log_records_and_their_tracebacks(self) -> None:
        handler = CanaryHandler()
        record = logging.makeLogRecord({"msg": "nothing"})
        handler.handle(record)
        assert handler.found == []
        handler.handle(logging.makeLogRecord({"msg": "a prompt: %s", "args": (PROMPT,)}))
        error = ValueError(PROMPT)
        handler.handle(logging.makeLogRecord({"exc_info": (ValueError, error, None)}))
        assert len(handler.found) == 2

    def test_files(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        directory = tmp_path_factory.mktemp("files")
        (directory / "inner").mkdir()
        (directory / "clean").write_text("say hello", encoding="utf-8")
        (directory / "inner" / "bad").write_bytes(b"\xff\0" + PROMPT.encode())
        assert find_in_files(directory) == [f"inner/bad has ['{CANARY}', 'say-hello']"]

    def test_tokens_of_any_key(self, tmp_path: Path) -> None:
        token = KeyDatabase(tmp_path).create(ALL_SCOPES)[1]
        assert find_secrets(f"x{token}y") == {token}
        assert find_secrets(f"x{token[:-1]}y") == set()
