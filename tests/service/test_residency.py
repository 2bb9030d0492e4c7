"""Model residency: several programs load, unload and call models of one engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from foundry_api import (
    CallEnded,
    Event,
    FoundryAPIClient,
    LimiterSettings,
    ModelLoaded,
    ModelResidency,
    ModelUnloaded,
)
from foundry_api.engine import shared
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from foundry_api.types import errors
from foundry_api.types.messages import ChatRequest, Message
from foundry_api.wire.http import HttpTransport
from service.helpers import ROOT, wait_until_async
from support.cli_program import run as run_command
from support.scripted_model import build, script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from foundry_api import Request
    from foundry_api.wire.transport import Response

NAMES = ("one", "two", "three")

STREAMING = """
import asyncio, os, sys
from foundry_api import FoundryAPIClient

async def main():
    print(os.getpid(), flush=True)
    async with FoundryAPIClient(model="one", max_retries=0) as client:
        chunks = client.stream_complete("say-slowly", max_tokens=int(sys.argv[1]), timeout=60)
        print((await anext(chunks)).content, flush=True)
        async for chunk in chunks:
            last = chunk
        print(last.finish_reason, last.usage.completion_tokens, flush=True)

asyncio.run(main())
"""

LOADING_AND_UNLOADING = """
import asyncio, sys
from foundry_api import FoundryAPIClient, ModelInUse, ModelResidency

async def main():
    async with FoundryAPIClient(model="one", residency=ModelResidency(hold_s=0.3)) as client:
        for _ in range(int(sys.argv[1])):
            await client.models.load("one")
            while True:
                try:
                    await client.models.unload("one", drain=0.2)
                    break
                except ModelInUse:
                    await asyncio.sleep(0.01)
    print("unloaded", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def engine_home(home: Path, tmp_path: Path) -> Iterator[Path]:
    """Start a shared engine with three models of 1 MB; return its home."""
    directory = tmp_path / "scripted"
    directory.mkdir()
    build(directory)
    with run_engine(home, directory):
        yield home


@contextlib.contextmanager
def run_engine(home: Path, directory: Path) -> Iterator[None]:
    """Run a shared engine that serves a model directory under three names."""
    models = tuple(ModelSource(path=str(directory), alias=name) for name in NAMES)
    paths = Paths.from_home(home)
    shared.start(paths, idle_timeout_s=120, options=HostOptions(paths=paths, models=models))
    yield
    shared.stop(paths)


@contextlib.contextmanager
def run_program(
    path: Path, source: str, *arguments: str, home: Path
) -> Iterator[subprocess.Popen[str]]:
    """Run a program from the file `path`; kill it at the end of the block.

    On Windows, its pid may be that of the launcher of a virtual environment.
    """
    path.write_text(source, encoding="utf-8")
    variables = {"FOUNDRY_HOME": str(home), "PYTHONPATH": ROOT, "PYTHONWARNINGS": "error"}
    with subprocess.Popen(
        [sys.executable, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return (await asyncio.to_thread(process.stdout.readline)).strip()


@contextlib.asynccontextmanager
async def open_client(
    home: Path, events: list[Event] | None = None, **options: object
) -> AsyncIterator[FoundryAPIClient]:
    received = [] if events is None else events
    async with FoundryAPIClient(
        home=home,
        model="one",
        max_retries=0,
        listeners=[received.append],
        **options,  # type: ignore[arg-type]
    ) as client:
        yield client


async def get_loaded_aliases(client: FoundryAPIClient) -> set[str]:
    """Return the models in memory as the engine reports them."""
    connection, _ = await client._backend.route("one")
    return {
        model_id.partition(":")[0] for model_id in await connection.dialect.get_loaded_ids("local")
    }


async def read_to_end(response: Response) -> None:
    while await response.read():
        continue
    response.close()


async def test_unload_fails_while_another_program_streams(
    engine_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "assistant.py"
    async with open_client(engine_home) as client:
        with run_program(path, STREAMING, "120", home=engine_home) as assistant:
            pid = int(await read_line(assistant))
            assert await read_line(assistant) == "t"
            with pytest.raises(errors.ModelInUse) as caught:
                await client.models.unload("one")
            assert f"assistant.py (pid {pid}), last" in caught.value.message
            (user,) = await client.models.users("one")
            assert (user.program, user.pid) == ("assistant.py", pid)
            assert await read_line(assistant) == "length 120"
            await asyncio.to_thread(assistant.wait, 20)
        await client.models.unload("one")
        assert await get_loaded_aliases(client) == set()


async def test_unload_waits_for_fifty_calls(engine_home: Path) -> None:
    events: list[Event] = []
    limits = LimiterSettings(initial=64, maximum=64)
    may_send = asyncio.Event()

    async def hold_calls(request: Request) -> Request:
        if request.url.endswith("/chat/completions"):
            await may_send.wait()  # else the first calls may end before the last ones start
        return request

    async with open_client(
        engine_home, events, limiter=limits, request_hooks=[hold_calls]
    ) as client:
        await client.models.load("one")
        calls = [asyncio.create_task(client.complete("say-long", timeout=60)) for _ in range(50)]
        uses = (await client._backend.route("one"))[0].models.get_usage("one:1")
        await wait_until_async(lambda: uses.calls == 50)
        unloading = asyncio.create_task(client.models.unload("one", drain=60))
        await wait_until_async(lambda: not client.services[0].connection.loaded)  # type: ignore[union-attr]
        may_send.set()
        later = [asyncio.create_task(client.complete("say-hello")) for _ in range(5)]
        await unloading
        answers = [answer.content for answer in await asyncio.gather(*calls, *later)]
    assert answers == [script("say-long").text] * 50 + [script("say-hello").text] * 5
    order = [type(event) for event in events if not isinstance(event, CallEnded)]
    assert [kind for kind in order if kind in {ModelLoaded, ModelUnloaded}] == [
        ModelLoaded,
        ModelUnloaded,
        ModelLoaded,
    ]
    unloaded = next(n for n, event in enumerate(events) if isinstance(event, ModelUnloaded))
    assert sum(isinstance(event, CallEnded) for event in events[:unloaded]) == 50


async def test_calls_succeed_while_programs_load_and_unload(
    engine_home: Path, tmp_path: Path
) -> None:
    """The calls have no retries, so only the shared usage file prevents failures."""
    hold = ModelResidency(hold_s=1.0)
    answered = 0
    async with open_client(engine_home, residency=hold) as client:
        with contextlib.ExitStack() as stack:
            loops = [
                stack.enter_context(
                    run_program(
                        tmp_path / f"loop{number}.py", LOADING_AND_UNLOADING, "3", home=engine_home
                    )
                )
                for number in range(2)
            ]
            while answered < 40 or any(loop.poll() is None for loop in loops):
                for _ in range(8):
                    answer = await client.complete("say-hello")
                    assert answer.content == script("say-hello").text
                    answered += 1
                await asyncio.sleep(1.2)  # after the hold, the loops may unload the model
            assert [await read_line(loop) for loop in loops] == ["unloaded"] * 2


async def test_a_killed_program_does_not_keep_its_model(engine_home: Path, tmp_path: Path) -> None:
    async with open_client(engine_home) as client:
        with run_program(tmp_path / "killed.py", STREAMING, "2000", home=engine_home) as killed:
            await read_line(killed)
            assert await read_line(killed) == "t"
            with pytest.raises(errors.ModelInUse):
                await client.models.unload("one")
            killed.kill()
            await asyncio.to_thread(killed.wait, 20)
            await client.models.unload("one")
        assert await get_loaded_aliases(client) == set()


async def test_unload_waits_for_an_open_session_of_the_engine(
    engine_home: Path,
) -> None:
    """On a busy machine, the engine counts a session for up to a second after the call."""
    async with (
        open_client(engine_home) as client,
        contextlib.aclosing(HttpTransport()) as transport,
    ):
        await client.complete("say-hello")
        connection, model = await client._backend.route("one")
        chat_request = ChatRequest(
            messages=(Message(role="user", content="say-slowly"),), max_tokens=20
        )
        session = await transport.send(connection.dialect.build_chat_request(model, chat_request))
        assert await session.read()
        await client.complete("say-hello")
        with pytest.raises(errors.ModelInUse):
            await connection.dialect.unload(model)
        reading = asyncio.create_task(read_to_end(session))
        await client.models.unload("one", drain=0)
        await reading
        assert await get_loaded_aliases(client) == set()


async def test_a_conversation_keeps_its_model_in_memory(engine_home: Path) -> None:
    async with open_client(engine_home) as client:
        async with client.responses.conversation() as conversation:
            response = await conversation.send("say-hello")
            with pytest.raises(errors.ModelInUse) as caught:
                await client.models.unload("one", drain=0)
            assert response.id in caught.value.hint
        await client.models.unload("one", drain=0)
        assert await get_loaded_aliases(client) == set()


def add_weights(directory: Path, megabytes: int, *, halved: bool = False) -> None:
    """Make a scripted model use more memory by weights that do not affect its answers.

    With `halved`, its file has them in half precision, which takes half of that memory.
    """
    path = directory / "model.onnx"
    model = onnx.load(path)
    weights = np.zeros(megabytes * 2**20 // 4, np.float16 if halved else np.float32)
    for name, values in (("ballast", weights), ("no_index", np.zeros(1, np.int64))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    concat = next(node for node in model.graph.node if "other_logits" in node.input)
    concat.input[list(concat.input).index("other_logits")] = "heavy_logits"
    position = list(model.graph.node).index(concat)
    for node in (
        onnx.helper.make_node("Add", ["other_logits", "ballast_logit"], ["heavy_logits"]),
        onnx.helper.make_node("ReduceMax", ["ballast_found"], ["ballast_logit"], keepdims=1),
        onnx.helper.make_node("Gather", ["whole_ballast", "no_ids"], ["ballast_found"]),
        onnx.helper.make_node("Cast", ["ballast"], ["whole_ballast"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["ids", "no_index"], ["no_ids"]),
    ):
        model.graph.node.insert(position, node)
    onnx.save_model(model, path)


@pytest.fixture
def heavy_home(home: Path, tmp_path: Path) -> Iterator[Path]:
    """Start a shared engine with three models of 60 MB; return its home."""
    directory = tmp_path / "heavy"
    build(directory)
    add_weights(directory, 60)
    with run_engine(home, directory):
        yield home


async def test_the_least_recently_used_model_is_evicted(heavy_home: Path) -> None:
    """The budget counts memory, which is some 10 MB more than the model files."""
    events: list[Event] = []
    policy = ModelResidency(memory_budget_mb=170)
    async with open_client(heavy_home, events, residency=policy) as client:
        for name in ("one", "two", "one", "three"):
            await client.complete("say-hello", model=name)
        assert await get_loaded_aliases(client) == {"one", "three"}
        (unloaded,) = [event for event in events if isinstance(event, ModelUnloaded)]
        assert (unloaded.model, unloaded.reason) == ("two:1", "budget")
        answers = await asyncio.gather(
            *(client.complete("say-hello", model=NAMES[n % 3], deadline=60) for n in range(30))
        )
        assert {answer.content for answer in answers} == {script("say-hello").text}
        assert len(await get_loaded_aliases(client)) <= 2
        assert await get_models_memory_mb(client) <= 170


async def test_a_model_beyond_the_budget_is_unloaded(home: Path, tmp_path: Path) -> None:
    """Its files of 32 MB fit into the budget, its memory of more than 60 MB does not."""
    directory = tmp_path / "heavy"
    build(directory)
    add_weights(directory, 60, halved=True)
    policy = ModelResidency(memory_budget_mb=45)
    with run_engine(home, directory):
        async with open_client(home, residency=policy) as client:
            with pytest.raises(errors.MemoryBudgetExceeded, match="the budget is 45 MB"):
                await client.complete("say-hello")
            assert await get_loaded_aliases(client) == set()
            assert await get_models_memory_mb(client) <= 45


async def get_models_memory_mb(client: FoundryAPIClient) -> float:
    connection, _ = await client._backend.route("one")
    return await connection.measure_models_mb() or 0.0


async def test_a_model_used_by_another_program_is_not_evicted(
    engine_home: Path, tmp_path: Path
) -> None:
    policy = ModelResidency(max_loaded=1)
    async with open_client(engine_home, residency=policy) as client:
        with run_program(
            tmp_path / "assistant.py", STREAMING, "2000", home=engine_home
        ) as assistant:
            pid = int(await read_line(assistant))
            assert await read_line(assistant) == "t"
            with pytest.raises(errors.MemoryBudgetExceeded) as caught:
                await client.complete("say-hello", model="two")
            assert f"one:1 (1 MB, used by assistant.py (pid {pid})" in str(caught.value)


async def test_an_idle_model_is_unloaded_and_loaded_again(engine_home: Path) -> None:
    events: list[Event] = []
    async with open_client(
        engine_home, events, residency=ModelResidency(keep_alive_s=0.3)
    ) as client:
        await client.complete("say-hello")
        await wait_until_async(lambda: any(isinstance(event, ModelUnloaded) for event in events))
        assert await get_loaded_aliases(client) == set()
        assert (await client.complete("say-hello")).content == script("say-hello").text


async def test_ensure_loaded_and_swap(engine_home: Path) -> None:
    async with open_client(engine_home) as client:
        models = await client.models.ensure_loaded(["two", "one"])
        assert [model.alias for model in models] == ["two", "one"]
        assert (await client.models.swap("one", "three")).alias == "three"
        assert await get_loaded_aliases(client) == {"two", "three"}
        with pytest.raises(errors.CatalogUnavailable):  # the catalog is offline
            await client.models.swap("two", "unknown")
        assert await get_loaded_aliases(client) == {"two", "three"}


@pytest.mark.parametrize("damage", ["garbage", "a directory"])
async def test_a_damaged_usage_file_does_not_fail_a_call(engine_home: Path, damage: str) -> None:
    path = Paths.from_home(engine_home).usage_file
    if damage == "garbage":
        path.write_bytes(b"no database " * 400)
    else:
        path.mkdir()
    async with open_client(engine_home) as client:
        assert (await client.complete("say-hello")).content == script("say-hello").text
        await client.models.unload("one")
        assert await get_loaded_aliases(client) == set()


async def test_an_own_engine_has_no_usage_file(home: Path) -> None:
    async with FoundryAPIClient(home=home, service="embedded") as client:
        await client.models.load("demo")
        await client.models.unload("demo")
        assert not Paths.from_home(home).usage_file.exists()


def test_cli_loads_swaps_and_unloads(engine_home: Path, tmp_path: Path) -> None:
    loaded = run_command("models", "load", "one", "two", home=engine_home)
    assert loaded.stdout.splitlines() == ["one is loaded: one:1", "two is loaded: two:1"]
    output = run_command("models", "load", "one", "two", "--json", home=engine_home).stdout
    assert [model["id"] for model in json.loads(output)["models"]] == ["one:1", "two:1"]
    swapped = run_command("models", "swap", "one", "three", home=engine_home)
    assert swapped.stdout == "three is loaded in place of one: three:1\n"
    with run_program(tmp_path / "assistant.py", STREAMING, "2000", home=engine_home) as assistant:
        assert assistant.stdout
        pid = int(assistant.stdout.readline())
        assert assistant.stdout.readline() == "t\n"
        refused = run_command("models", "unload", "one", home=engine_home)
        assert refused.returncode == 1
        assert f"one:1 is used by assistant.py (pid {pid}), last" in refused.stderr
        forced = run_command("models", "unload", "one", "--force", home=engine_home)
        assert forced.returncode == 1
        assert "1 session(s) still using it" in forced.stderr, "the engine can refuse to unload"
    unloaded = run_command("models", "unload", "one", "--drain", "1", home=engine_home)
    assert unloaded.stdout == "one is no longer loaded: one:1\n"
    wrong = run_command("models", "unload", "one", "--drain", "-1", home=engine_home)
    assert wrong.returncode == 2
