"""The problems of other gateways, P1 to P49: each has a test with its number in the name.

    PYTHONPATH=tests python tests/gateway/test_problems.py        lists them

The first tests are those of problems that belong to no other file.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openai import APIError, AsyncOpenAI
from packaging.requirements import Requirement

from foundry_api.engine import shared
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.process import HostOptions
from foundry_api.gateway.errors import translate_error
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.gateway.limits.admission import Work
from foundry_api.gateway.routes import ROUTES
from foundry_api.storage.lock import FileLock
from foundry_api.storage.paths import Paths
from foundry_api.testing import Disconnect, FakeService, Reply, Stall
from foundry_api.types.errors import ServiceStartFailed
from gateway.serving import CHAT, call, make_body, serve
from gateway.shapes import parse_events
from support.scripted_model import build
from support.scripted_model.embeddings import build_embedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import aiohttp

    from gateway.serving import ServedGateway

ROOT = Path(__file__).parents[2]
PROBLEMS = range(1, 50)
HELLO = make_body("say-hello", "fake")
MANAGER = NewKey(
    name="manager", scopes=frozenset({"inference", "manage"}), tokens=(Limit(10, "d"),)
)


async def test_p6_a_log_that_cannot_be_written_holds_no_slot(tmp_path: Path) -> None:
    key = NewKey(name="a", parallel=1, scopes=frozenset({"inference", "manage"}))
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, key) as served:
        with FileLock(tmp_path / "audit.jsonl.lock", timeout_s=30):
            async with served.http.post("/api/reload", json={}) as response:
                assert response.status == 200
            for _ in range(3):
                assert (await call(served.http, HELLO))[0] == 200


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "C:\\model", "file:///x"])
async def test_p24_no_route_takes_a_path_or_a_model_file(
    http: aiohttp.ClientSession, path: str
) -> None:
    models = [one.path for one in ROUTES if "/models" in one.path]
    assert not [one for one in models if re.search("create|register|import|blob|copy|push", one)]
    async with http.get("/api/models") as response:
        before = await response.json()
    encoded = path.replace("/", "%2F").replace("\\", "%5C")
    for target in (f"/api/models/{encoded}/load", f"/api/models/{encoded}/unload", "/models/load"):
        body = {"model": path, "path": path, "file": path, "modelfile": f"FROM {path}"}
        async with http.post(target, json=body) as response:
            assert response.status == 404
    async with http.get("/api/models") as response:
        after = await response.json()
    assert {model["id"] for model in after["models"]} == {model["id"] for model in before["models"]}


def test_p24_an_engine_that_does_not_start_names_no_path() -> None:
    error = ServiceStartFailed("Permission denied: '/opt/x/bin/python'", log_path="/var/x/host.log")
    refusal = translate_error(error)
    assert (refusal.status, refusal.code) == (503, "upstream_unavailable")
    assert "/" not in refusal.message


@pytest.fixture
async def own_engine(own_home: Path, tmp_path: Path) -> AsyncIterator[str]:
    """An engine whose models a test may unload."""
    models: list[ModelSource] = []
    for alias, builder in (("scripted", build), ("embedder", build_embedder)):
        directory = tmp_path.with_name(f"{tmp_path.name}-{alias}")  # no file of the gateway
        directory.mkdir()
        builder(directory)
        models.append(ModelSource(path=str(directory), alias=alias))
    paths = Paths.from_home(own_home)
    options = HostOptions(paths=paths, models=tuple(models))
    endpoint, _ = await asyncio.to_thread(shared.start, paths, idle_timeout_s=120, options=options)
    yield endpoint.base_url
    await asyncio.to_thread(shared.stop, paths)


async def test_p30_p31_loading_and_unloading_do_not_cut_a_running_answer(
    tmp_path: Path, own_engine: str
) -> None:
    async with serve(tmp_path / "gateway", own_engine, NewKey(name="a", scopes=MANAGER.scopes)) as (
        served
    ):
        body = make_body("say-slowly", stream=True, max_tokens=30)
        async with served.http.post(CHAT, json=body) as running:
            await running.content.readline()
            async with served.http.get("/models/sse") as events:
                await events.content.readuntil(b"\n\n")  # the comment that opens the stream
                async with served.http.post("/api/models/embedder/load") as response:
                    assert response.status == 200
                for status in ("loading", "loaded"):
                    line = await asyncio.wait_for(events.content.readuntil(b"\n\n"), 60)
                    event = json.loads(line.removeprefix(b"data: "))
                    assert (event["model"], event["data"]) == ("embedder", {"status": status})
            async with served.http.post("/api/models/scripted/unload") as response:
                assert response.status in {200, 409}  # after the answer, or not now
            *_, last, end = parse_events(await running.text())
        assert (last["choices"][0]["finish_reason"], end) == ("length", "[DONE]")
        # Embeddings of a chat model end the process of an older engine.
        body = {"model": "scripted", "input": "x"}
        async with served.http.post("/v1/embeddings", json=body) as response:
            assert response.status == 400
        assert (await call(served.http, make_body("say-hello")))[0] == 200


@pytest.mark.parametrize("reply", [Disconnect("A word"), Stall("A word")])
async def test_p32_p33_a_stream_that_fails_ends_with_an_error_and_the_sdk_raises_it(
    tmp_path: Path, reply: Any
) -> None:
    async with (
        FakeService(reply) as upstream,
        serve(tmp_path, upstream.base_url, config={"gap_timeout_s": 1.0}) as served,
    ):
        async with served.http.post(CHAT, json={**HELLO, "stream": True}) as response:
            *_, last = parse_events(await response.text())  # up to the end of the stream
        assert last["error"]["code"] in {"upstream_unavailable", "gap_timeout"}
        async with AsyncOpenAI(
            base_url=f"{served.gateway.url}/v1", api_key="none", max_retries=0
        ) as client:
            answer = await client.chat.completions.create(**HELLO, stream=True)
            with pytest.raises(APIError):
                [chunk async for chunk in answer]


# How long a chunk takes is measured by `bench/gateway_limits.py`.
@pytest.mark.parametrize("streams", [1, 64])
async def test_p35_a_chunk_is_sent_before_the_next_one_arrives(
    tmp_path: Path, streams: int
) -> None:
    async with (
        FakeService(Stall("First")) as upstream,
        serve(tmp_path, upstream.base_url) as served,
    ):

        async def read_first() -> None:
            async with served.http.post(CHAT, json={**HELLO, "stream": True}) as response:
                async for line in response.content:
                    if b'"First"' in line:  # the service sends nothing more
                        return

        await asyncio.wait_for(asyncio.gather(*(read_first() for _ in range(streams))), 60)


async def test_p36_silence_is_filled_with_comments(tmp_path: Path) -> None:
    async with (
        FakeService(Stall()) as upstream,
        serve(tmp_path, upstream.base_url, config={"keep_alive_s": 1.0}) as served,
        served.http.post(CHAT, json={**HELLO, "stream": True}) as response,
    ):
        lines = [await asyncio.wait_for(response.content.readline(), 60) for _ in range(4)]
    assert lines == [b": keep-alive\n", b"\n"] * 2


def count_objects() -> Counter[str]:
    gc.collect()
    names = [type(one).__qualname__ for one in gc.get_objects()]
    kept = {"Exchange", "Ticket", "Waiter", "Task", "_ClientConnection", "Generation", "Request"}
    return Counter(name for name in names if name in kept or name.endswith("StreamResponse"))


async def test_p39_streams_leave_no_objects_behind(tmp_path: Path) -> None:
    async with (
        FakeService(Reply("One two three")) as upstream,
        serve(tmp_path, upstream.base_url) as served,
    ):

        async def stream_many(count: int) -> Counter[str]:
            for _ in range(count):
                assert (await call(served.http, {**HELLO, "stream": True}))[0] == 200
            await served.wait_until(lambda: not served.gateway.context.running)
            return count_objects()

        before = await stream_many(5)
        after = await stream_many(200)
        assert after.total() <= before.total() + 5


async def count_waiting_when_answered(served: ServedGateway, path: str) -> int:
    async with served.http.get(path) as response:
        assert response.status == 200
    return served.gateway.context.admission.scheduler.waiting


async def test_p42_health_is_answered_before_ten_thousand_calls_that_wait(tmp_path: Path) -> None:
    config = {"queue_per_slot": 20_000}
    async with (
        FakeService(Stall()) as upstream,
        serve(tmp_path, upstream.base_url, config=config) as served,
    ):
        admission = served.gateway.context.admission
        work = Work(model="fake", prompt_tokens=1, max_tokens=1, body_bytes=1)
        tickets = [admission.admit(None, work) for _ in range(10_000)]
        waiting = admission.scheduler.waiting
        assert waiting > 9_000
        for path in ("/healthz", "/readyz", "/api/status", "/metrics"):
            assert await count_waiting_when_answered(served, path) == waiting
        for ticket in tickets:
            ticket.close()


async def test_p42_health_needs_neither_key_nor_service(tmp_path: Path) -> None:
    async with FakeService() as upstream:
        base_url = upstream.base_url
    async with serve(tmp_path, base_url, MANAGER) as served:  # the service is down
        for path in ("/healthz", "/readyz"):
            headers = {"Authorization": "Bearer no"}
            async with served.http.get(path, headers=headers) as response:
                assert response.status == 200


async def test_p43_management_does_not_count_against_limits(tmp_path: Path) -> None:
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, MANAGER) as served:
        statuses = [(await call(served.http, HELLO))[0] for _ in range(5)]
        assert statuses[-1] == 429
        for _ in range(50):
            async with served.http.get("/api/status") as response:
                assert response.status == 200
        async with served.http.post("/api/reload", json={}) as response:
            assert response.status == 200


def test_p47_the_program_ships_no_hidden_code() -> None:
    source = ROOT / "src" / "foundry_api"
    assert not list(source.rglob("*.pth"))
    # The project's own scripts are written to be read: none is minified. Those of others have the
    # digests of what their authors publish; see dashboard/test_static_files.py.
    scripts = [path for path in source.rglob("*.js") if path.parent.name != "vendor"]
    assert scripts
    for script in scripts:
        lines = script.read_text(encoding="utf-8").splitlines()
        assert max(map(len, lines)) <= 200, f"{script} is not for people"


def test_p47_there_is_no_new_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=;\[ ]", line)[0] for line in project["dependencies"]}
    assert names == {
        "aiohttp",
        "click",
        "httptools",
        "jsonschema",
        "msgspec",
        "multidict",
        "packaging",
        "platformdirs",
        "prompt-toolkit",
        "psutil",
        "rich",
    }


def test_p49_aiohttp_without_the_known_defects_is_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [aiohttp_line] = [
        one for one in map(Requirement, project["dependencies"]) if one.name == "aiohttp"
    ]
    # The last one is fixed in 3.14.4: CVE-2026-128131, many compressed members in one body.
    assert not aiohttp_line.specifier.contains("3.14.3")
    assert aiohttp_line.specifier.contains("3.14.5")


def find_tests() -> dict[int, list[str]]:
    """Return the tests of each problem: its number is in a test's name, or in an id of it."""
    tests: dict[int, list[str]] = {number: [] for number in PROBLEMS}
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for name in find_names(path.read_text(encoding="utf-8")):
            for number in re.findall(r"(?<![a-z0-9])p(\d+)_", name):
                tests[int(number)].append(f"{path.name}: {name}")
    return tests


def find_names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name if node.name.startswith("test_") else ""
        elif isinstance(node, ast.Constant) and re.fullmatch(r"(p\d+_)+\w*", str(node.value)):
            yield str(node.value)


def test_every_problem_has_a_test() -> None:
    assert [number for number, tests in find_tests().items() if not tests] == []


if __name__ == "__main__":
    for problem, found in find_tests().items():
        print(f"P{problem}", *(found or ["no test"]), sep="\n    ")  # noqa: T201
