"""`/v1/batches` by the OpenAI SDK: whole runs, refusals, cancels, ends, and kills."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from threading import Event
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest
from openai import AsyncOpenAI

from foundry_api.gateway.batches import engine as batch_engine
from foundry_api.gateway.batches import manager as batch_manager
from foundry_api.gateway.batches.work import BatchWork
from foundry_api.gateway.files.stored_bytes import MIN_FILE_BYTES, measure_directory
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.testing import FakeService
from gateway.helpers import post
from gateway.keys.helpers import FakeClock
from gateway.serving import serve
from gateway.shapes import check_shape
from support.cli_program import make_command, make_environment
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foundry_api.batch.journal import Journal
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.gateway.files.batch_types import StoredBatch
    from foundry_api.gateway.gateway import Gateway
    from gateway.serving import ServedGateway

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages/batches"
BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-type"}}}


def make_line(number: int, url: str = CHAT, **body: Any) -> dict[str, Any]:
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}


def make_chat(
    number: int, prompt: str = "say-hello", model: str = "scripted", **options: Any
) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return make_line(number, model=model, messages=messages, **options)


def encode(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def start(client: AsyncOpenAI, content: bytes, endpoint: Any = CHAT) -> Any:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
    )


async def wait(client: AsyncOpenAI, batch: Any) -> Any:
    async with asyncio.timeout(60):
        while not (batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at):
            await asyncio.sleep(0.05)
            batch = await client.batches.retrieve(batch.id)
    check_shape("batch", json.loads(batch.to_json()))
    return batch


async def read(client: AsyncOpenAI, file_id: str | None) -> list[Any]:
    if file_id is None:
        return []
    lines = (await client.files.content(file_id)).text.splitlines()
    return [json.loads(line) for line in lines]


def get_key_id(served: ServedGateway, name: str) -> str:
    return next(key.id for key in served.gateway.context.keyring.keys if key.name == name)


def connect(url: str, token: str | None = None) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=token or "none", max_retries=0)


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with connect(gateway.url) as client:
        yield client


async def test_a_batch_of_chats(client: AsyncOpenAI) -> None:
    lines = [make_chat(number) for number in range(5)] + [make_chat(5, model="no-such-model")]
    batch = await start(client, encode(lines))
    assert batch.status == "validating"
    assert [one.id async for one in client.batches.list(limit=1)] == [batch.id]
    batch = await wait(client, batch)
    assert (batch.status, batch.metadata) == ("completed", {"a": "b"})
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (6, 5, 1)
    assert batch.model is None  # its lines name two
    answers = await read(client, batch.output_file_id)
    assert {one["custom_id"] for one in answers} == {f"line-{number}" for number in range(5)}
    for answer in answers:
        check_shape("batch.output_line", answer)
        check_shape("chat.completion", answer["response"]["body"])
        message = answer["response"]["body"]["choices"][0]["message"]
        assert message["content"] == script("say-hello").text
    [failed] = await read(client, batch.error_file_id)
    assert failed["response"]["status_code"] == 404
    assert failed["response"]["body"]["error"]["code"] == "model_not_found"
    purposes = [one.purpose async for one in client.files.list(purpose="batch_output")]
    assert purposes == ["batch_output", "batch_output"]


async def test_a_batch_has_its_model_and_its_tokens(client: AsyncOpenAI) -> None:
    batch = await start(client, encode([make_chat(0, "say-slowly", max_tokens=8), make_chat(1)]))
    assert (batch.model, batch.usage) == (None, None)  # not known yet
    batch = await wait(client, batch)
    answers = await read(client, batch.output_file_id)
    usages = [answer["response"]["body"]["usage"] for answer in answers]
    assert batch.model == "scripted"
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages) > 0
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages) > 0
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in usages)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"model": "embedder", "input": ["one", "two"]}),
        ("/v1/responses", {"model": "scripted", "input": "say-hello"}),
    ],
)
async def test_other_endpoints(client: AsyncOpenAI, endpoint: str, body: dict[str, Any]) -> None:
    lines = [make_line(number, endpoint, **body) for number in range(2)]
    batch = await wait(client, await start(client, encode(lines), endpoint))
    assert batch.status == "completed"
    answers = await read(client, batch.output_file_id)
    assert len(answers) == 2
    assert batch.error_file_id is None


async def test_the_whole_file_is_checked_first(client: AsyncOpenAI) -> None:
    good = make_chat(0)
    content = encode([good]) + b"\nnot json\n"
    content += encode(
        [
            good,
            {**make_chat(1), "url": "/v1/embeddings"},
            {**make_chat(2), "method": "GET"},
            make_line(3, messages="x", model="scripted"),
            make_line(4, model="scripted", messages=[{"role": "user", "content": "x"}], n=99),
            make_line(5, messages=[{"role": "user", "content": "x"}]),
            {"url": CHAT, "body": {}},
            make_chat(6, temperature=9),
            make_chat(7, response_format=BAD_SCHEMA),
        ]
    )
    batch = await wait(client, await start(client, content))
    assert (batch.status, batch.output_file_id, batch.request_counts.total) == ("failed", None, 0)
    assert batch.usage.total_tokens == 0
    assert [(one.line, one.code, one.param) for one in batch.errors.data] == [
        (3, "invalid_json_line", None),
        (4, "duplicate_custom_id", "custom_id"),
        (5, "mismatched_url", "url"),
        (6, "invalid_method", "method"),
        (7, "invalid_type", "messages"),
        (8, "invalid_value", "n"),
        (9, "missing_required_parameter", "model"),
        (10, "missing_required_parameter", "custom_id"),
        (11, "invalid_value", "temperature"),
        (12, "invalid_value", "response_format.json_schema.schema"),
    ]


@pytest.mark.parametrize(
    ("content", "code"), [(b"\n\n", "empty_file"), (b"\x1f\x8bx", "invalid_file")]
)
async def test_a_file_without_lines(client: AsyncOpenAI, content: bytes, code: str) -> None:
    batch = await wait(client, await start(client, content))
    assert [one.code for one in batch.errors.data] == [code]


async def test_a_cancel_ends_the_lines_that_run(client: AsyncOpenAI, gateway: Gateway) -> None:
    lines = [make_chat(0), *(make_chat(number, "say-forever") for number in range(1, 40))]
    batch = await start(client, encode(lines))
    async with asyncio.timeout(60):
        while not (await client.batches.retrieve(batch.id)).request_counts.completed:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await client.batches.cancel(batch.id)).status in {"cancelling", "cancelled"}
    batch = await wait(client, batch)
    assert batch.status == "cancelled"
    answers = await read(client, batch.output_file_id)
    errors = await read(client, batch.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert batch.request_counts.completed == len(answers) == 40 - len(errors) > 0
    assert gateway.context.admission.scheduler.active == 0
    assert (await client.batches.cancel(batch.id)).status == "cancelled"


async def test_a_gateway_stops_while_a_batch_is_being_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_journal, is_opening, may_open = BatchWork._open_journal, Event(), Event()

    def open_slowly(work: BatchWork, batch: StoredBatch) -> Journal:
        is_opening.set()
        assert may_open.wait(60)
        return open_journal(work, batch)

    monkeypatch.setattr(BatchWork, "_open_journal", open_slowly)
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url) as served,
        connect(served.gateway.url) as client,
    ):
        batch = await start(client, encode([make_chat(0, model="fake")]))
        await served.wait_until(is_opening.is_set)
        manager = cast("batch_manager.BatchManager", served.gateway.context.batches)
        [run] = manager._runs.values()
        await manager.cancel(run.batch)
        stopping = asyncio.ensure_future(manager.stop())
        await asyncio.sleep(0)
        may_open.set()
        async with asyncio.timeout(60):
            await stopping
        # The journal is free again, so that the next start writes the files of the batch.
        await manager.start()
        assert (await wait(client, batch)).status == "cancelled"


async def test_the_window_ends_with_what_is_done(engine: Endpoint, tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        serve(tmp_path, engine.base_url, wall_clock=clock) as served,
        connect(served.gateway.url) as client,
    ):
        lines = [make_chat(0), *(make_chat(number, "say-forever") for number in range(1, 40))]
        batch = await start(client, encode(lines))
        await served.wait_until(
            lambda: (served.gateway.context.batches.get_counts(batch.id) or (0, 0))[0] > 0
        )
        clock.now += 86_400
        batch = await wait(client, batch)
        assert batch.status == "expired"
        answers = await read(client, batch.output_file_id)
        errors = await read(client, batch.error_file_id)
        assert {one["error"]["code"] for one in errors} == {"batch_expired"}
        assert batch.request_counts.completed == len(answers) == 40 - len(errors) > 0


async def test_tokens_are_charged_to_the_key_and_batches_are_its_own(tmp_path: Path) -> None:
    keys = [
        NewKey(name="a", rate=Limit(50, "h"), tokens=(Limit(100_000, "d"),), parallel=1),
        NewKey(name="b"),
        NewKey(name="manager", scopes=frozenset({"manage"})),
    ]
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, *keys) as served:
        first, second, manager = (connect(served.gateway.url, token) for token in served.tokens)
        batch = await start(first, encode([make_chat(number, model="fake") for number in range(3)]))
        batch = await wait(first, batch)
        assert batch.request_counts.completed == 3
        accounts = served.gateway.context.admission.accounts
        account, now = next(iter(accounts)), accounts.clock()
        assert account.tokens["d"].get_level(now)[0] < 100_000
        assert account.requests is not None
        assert account.requests.get_level(now)[0] == 50
        assert (account.running, account.batch_lines) == (0, 0)
        assert [one.id async for one in second.batches.list()] == []
        with pytest.raises(Exception, match="no batch with this id"):
            await second.batches.retrieve(batch.id)
        assert [one.id async for one in manager.batches.list()] == [batch.id]
        for one in (first, second, manager):
            await one.close()


async def test_a_batch_waits_while_the_files_of_its_key_are_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_engine, "SPACE_WAIT_S", 0.01)
    monkeypatch.setattr(batch_manager, "WATCH_INTERVAL_S", 0.01)
    keys = [NewKey(name="a"), NewKey(name="b")]
    config = {"max_stored_bytes_per_key": 400_000}
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, *keys, config=config) as served,
        connect(served.gateway.url, served.tokens[0]) as first,
        connect(served.gateway.url, served.tokens[1]) as second,
    ):
        files = served.gateway.context.files
        content = b"x" * (400_000 - MIN_FILE_BYTES)
        large = await first.files.create(file=("x", content), purpose="batch")
        batch = await start(first, encode([make_chat(0, model="fake")]))
        assert not files.has_space(get_key_id(served, "a"))
        other = await start(second, encode([make_chat(0, model="fake")]))
        assert (await wait(second, other)).status == "completed"
        assert (await first.batches.retrieve(batch.id)).status == "in_progress"
        await first.files.delete(large.id)
        assert (await wait(first, batch)).status == "completed"
        await served.wait_until(
            lambda: files.stored_bytes.total == measure_directory(tmp_path / "files")
        )


async def test_old_records_of_a_key_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_manager, "MAX_ENDED", 2)
    keys = [NewKey(name="a"), NewKey(name="b")]
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, *keys) as served,
        connect(served.gateway.url, served.tokens[0]) as first,
        connect(served.gateway.url, served.tokens[1]) as second,
    ):
        other = await wait(second, await start(second, b"wrong"))
        ended = [(await wait(first, await start(first, b"wrong"))).id for _ in range(4)]
        assert [one.id async for one in first.batches.list()] == ended[:0:-1]
        assert [one.id async for one in second.batches.list()] == [other.id]


async def test_a_gateway_that_is_stopped_and_killed_goes_on(
    engine: Endpoint, own_home: Path
) -> None:
    """First with a batch of OpenAI's API, then with one of Anthropic's."""
    environment = make_environment(
        own_home, FOUNDRY_GATEWAY_BASE_URL=engine.base_url, PYTHONUNBUFFERED="1"
    )
    command = make_command("serve", "--port", "0")
    lines = [make_chat(number) for number in range(150)]
    requests = [
        {"custom_id": line["custom_id"], "params": {**line["body"], "max_tokens": 100}}
        for line in lines
    ]
    batch: Any = None
    messages: Any = None
    for end in ("stop", "kill", ""):
        program = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, env=environment
        )
        assert program.stdout is not None
        first_line = (await program.stdout.readline()).decode()
        url = first_line.split()[2].rstrip(".,").removesuffix("/v1")
        async with connect(url) as client, aiohttp.ClientSession(url) as http, asyncio.timeout(100):
            if batch is None:
                batch = await start(client, encode(lines))
                messages = await post(http, MESSAGES, {"requests": requests})
            place = f"{MESSAGES}/{messages['id']}"
            counts = {"stop": batch.request_counts.completed, "kill": 0, "": 0}
            while end and counts[end] < 60:
                await asyncio.sleep(0.02)
                counts["stop"] = (await client.batches.retrieve(batch.id)).request_counts.completed
                counts["kill"] = (await get(http, place))["request_counts"]["succeeded"]
            if not end:
                batch = await wait(client, batch)
                answers = await read(client, batch.output_file_id)
                while (await get(http, place))["processing_status"] != "ended":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                async with http.get(f"{place}/results") as response:
                    results = [json.loads(line) async for line in response.content]
        (program.kill if end == "kill" else program.terminate)()
        code = await program.wait()
        assert code == 0 or end == "kill" or os.name == "nt"
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert {one["result"]["type"] for one in results} == {"succeeded"}
    for found in (answers, results):
        assert sorted(one["custom_id"] for one in found) == sorted(
            line["custom_id"] for line in lines
        )


async def get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as response:
        return await response.json()
