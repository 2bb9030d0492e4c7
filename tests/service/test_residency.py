"""Several programs and one engine: they load, unload and call, and no call is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from foundry_api import (
    CallEnded,
    Event,
    FoundryAPIClient,
    FoundryClient,
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

    from foundry_api.wire.transport import Response

NAMES = ("one", "two", "three")

STREAMING = """
import asyncio, sys
from foundry_api import FoundryAPIClient

async def main():
    async with FoundryAPIClient(model="one", max_retries=0) as client:
        chunks = client.stream_complete("say-slowly", max_tokens=int(sys.argv[1]), timeout=60)
        print((await anext(chunks)).content, flush=True)
        async for chunk in chunks:
            last = chunk
        print(last.finish_reason, last.usage.completion_tokens, flush=True)

asyncio.run(main())
"""

LOADING_AND_UNLOADING = """
import asyncio, sys, time
from foundry_api import FoundryAPIClient, ModelInUse, ModelResidency

async def main():
    until, unloaded = time.monotonic() + float(sys.argv[1]), 0
    async with FoundryAPIClient(model="one", residency=ModelResidency(hold_s=0.3)) as client:
        while time.monotonic() < until:
            await client.models.load("one")
            while time.monotonic() < until:
                try:
                    await client.models.unload("one", drain=0.2)
                    unloaded += 1
                    break
                except ModelInUse:
                    await asyncio.sleep(0.01)
    print(unloaded, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def engine_home(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with a shared engine that has three models of 1 MB."""
    directory = tmp_path / "scripted"
    directory.mkdir()
    build(directory)
    models = tuple(ModelSource(path=str(directory), alias=name) for name in NAMES)
    paths = Paths.from_home(home)
    shared.start(paths, idle_timeout_s=120, options=HostOptions(paths=paths, models=models))
    yield home
    shared.stop(paths)


@contextlib.contextmanager
def program(
    path: Path, source: str, *arguments: str, home: Path
) -> Iterator[subprocess.Popen[str]]:
    """A user's program in a file of that name, which does not outlive the test."""
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


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return (await asyncio.to_thread(process.stdout.readline)).strip()


@contextlib.asynccontextmanager
async def opened(
    home: Path, events: list[Event] | None = None, **options: object
) -> AsyncIterator[FoundryAPIClient]:
    heard = [] if events is None else events
    async with FoundryAPIClient(
        home=home,
        model="one",
        max_retries=0,
        listeners=[heard.append],
        **options,  # type: ignore[arg-type]
    ) as client:
        yield client


async def inside(client: FoundryAPIClient) -> set[str]:
    """What the engine itself says is in memory."""
    connection, _ = await client._backend.route("one")
    return {each.partition(":")[0] for each in await connection.dialect.get_loaded_ids("local")}


async def read_whole(response: Response) -> None:
    while await response.read():
        continue
    response.close()


async def test_a_model_is_not_taken_from_a_program_that_streams(
    engine_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "assistant.py"
    async with opened(engine_home) as client:
        with program(path, STREAMING, "120", home=engine_home) as assistant:
            assert await line(assistant) == "t"
            with pytest.raises(errors.ModelInUse) as caught:
                await client.models.unload("one")
            assert f"assistant.py (pid {assistant.pid}), last" in caught.value.message
            (user,) = await client.models.users("one")
            assert (user.program, user.pid) == ("assistant.py", assistant.pid)
            assert await line(assistant) == "length 120"
            await asyncio.to_thread(assistant.wait, 20)
        await client.models.unload("one")
        assert await inside(client) == set()


async def test_fifty_calls_are_answered_whole_before_their_model_leaves(engine_home: Path) -> None:
    events: list[Event] = []
    limits = LimiterSettings(initial=64, maximum=64)
    async with opened(engine_home, events, limiter=limits) as client:
        await client.models.load("one")
        calls = [asyncio.create_task(client.complete("say-long", timeout=60)) for _ in range(50)]
        uses = (await client._backend.route("one"))[0].memory.get_usage("one:1")
        await wait_until_async(lambda: uses.calls == 50)
        unloading = asyncio.create_task(client.models.unload("one", drain=60))
        await wait_until_async(lambda: not client.services[0].connection.loaded)  # type: ignore[union-attr]
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


async def test_programs_that_load_and_unload_all_the_time_harm_no_call(
    engine_home: Path, tmp_path: Path
) -> None:
    """Without retries: it is the agreement that keeps them apart, not luck."""
    hold = ModelResidency(hold_s=1.0)
    answered = 0
    async with opened(engine_home, residency=hold) as client:
        with contextlib.ExitStack() as stack:
            loops = [
                stack.enter_context(
                    program(
                        tmp_path / f"loop{number}.py", LOADING_AND_UNLOADING, "9", home=engine_home
                    )
                )
                for number in range(2)
            ]
            give_up_at = time.monotonic() + 60
            while any(loop.poll() is None for loop in loops):
                assert time.monotonic() < give_up_at
                for _ in range(8):
                    answer = await client.complete("say-hello")
                    assert answer.content == script("say-hello").text
                    answered += 1
                await asyncio.sleep(1.5)
            unloaded = [int(await line(loop)) for loop in loops]
    assert answered >= 40
    assert sum(unloaded) >= 3, "the loops have to get at the model now and then"


async def test_a_program_that_was_killed_keeps_no_model(engine_home: Path, tmp_path: Path) -> None:
    async with opened(engine_home) as client:
        with program(tmp_path / "killed.py", STREAMING, "2000", home=engine_home) as killed:
            assert await line(killed) == "t"
            with pytest.raises(errors.ModelInUse):
                await client.models.unload("one")
            killed.kill()
            await asyncio.to_thread(killed.wait, 20)
            began = time.monotonic()
            await client.models.unload("one")
        assert time.monotonic() - began < 5
        assert await inside(client) == set()


async def test_a_model_may_leave_at_once_after_a_call_though_its_engine_still_holds_it(
    engine_home: Path,
) -> None:
    """The engine counts a session until a second after the call, as it may on a busy machine."""
    async with opened(engine_home) as client, contextlib.aclosing(HttpTransport()) as transport:
        await client.complete("say-hello")
        connection, model = await client._backend.route("one")
        asked = ChatRequest(messages=(Message(role="user", content="say-slowly"),), max_tokens=50)
        session = await transport.send(connection.dialect.build_chat_request(model, asked))
        assert await session.read()
        await client.complete("say-hello")
        with pytest.raises(errors.ModelInUse):
            await connection.dialect.unload(model)
        held = asyncio.create_task(read_whole(session))
        await client.models.unload("one", drain=0)
        await held
        assert await inside(client) == set()


async def test_a_conversation_keeps_its_model_in_memory(engine_home: Path) -> None:
    async with opened(engine_home) as client:
        async with client.responses.conversation() as conversation:
            said = await conversation.send("say-hello")
            with pytest.raises(errors.ModelInUse) as caught:
                await client.models.unload("one", drain=0)
            assert said.id in caught.value.hint
        await client.models.unload("one", drain=0)
        assert await inside(client) == set()


def add_weights(directory: Path, megabytes: int) -> None:
    """Let a scripted model take memory: each answer looks up a weight that says nothing."""
    path = directory / "model.onnx"
    model = onnx.load(path)
    weights = np.zeros(megabytes * 2**20 // 4, np.float32)
    for name, values in (("ballast", weights), ("no_index", np.zeros(1, np.int64))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    concat = next(node for node in model.graph.node if "other_logits" in node.input)
    concat.input[list(concat.input).index("other_logits")] = "heavy_logits"
    place = list(model.graph.node).index(concat)
    for added in (
        onnx.helper.make_node("Add", ["other_logits", "ballast_logit"], ["heavy_logits"]),
        onnx.helper.make_node("ReduceMax", ["ballast_found"], ["ballast_logit"], keepdims=1),
        onnx.helper.make_node("Gather", ["ballast", "no_ids"], ["ballast_found"]),
        onnx.helper.make_node("Mul", ["ids", "no_index"], ["no_ids"]),
    ):
        model.graph.node.insert(place, added)
    onnx.save_model(model, path)


@pytest.fixture
def heavy_home(engine_home: Path, tmp_path: Path) -> Path:
    """A home whose three models take 60 MB each."""
    directory = tmp_path / "heavy"
    build(directory)
    add_weights(directory, 60)
    with FoundryClient(home=engine_home) as client:
        for name in NAMES:
            client.models.register(directory, name)
    return engine_home


async def test_the_least_recently_used_of_three_leaves_a_budget_for_two(heavy_home: Path) -> None:
    """What counts is memory: some 10 MB more than the models' files, for the engine's own use."""
    events: list[Event] = []
    policy = ModelResidency(memory_budget_mb=170)
    async with opened(heavy_home, events, residency=policy) as client:
        for name in ("one", "two", "one", "three"):
            await client.complete("say-hello", model=name)
        assert await inside(client) == {"one", "three"}
        (unloaded,) = [event for event in events if isinstance(event, ModelUnloaded)]
        assert (unloaded.model, unloaded.reason) == ("two:2", "budget")
        answers = await asyncio.gather(
            *(client.complete("say-hello", model=NAMES[n % 3], deadline=60) for n in range(30))
        )
        assert {answer.content for answer in answers} == {script("say-hello").text}
        assert len(await inside(client)) <= 2
        assert await models_memory_mb(client) <= 170


async def test_a_model_that_takes_more_memory_than_the_budget_does_not_stay(
    heavy_home: Path,
) -> None:
    """Its files have 62 MB, which the budget allows; its memory does not fit."""
    async with opened(heavy_home, residency=ModelResidency(memory_budget_mb=65)) as client:
        with pytest.raises(errors.MemoryBudgetExceeded, match="the budget is 65 MB"):
            await client.complete("say-hello")
        assert await inside(client) == set()
        assert await models_memory_mb(client) <= 65


async def models_memory_mb(client: FoundryAPIClient) -> float:
    connection, _ = await client._backend.route("one")
    return await connection.measure_models_mb() or 0.0


async def test_a_budget_heeds_what_another_program_uses(engine_home: Path, tmp_path: Path) -> None:
    policy = ModelResidency(max_loaded=1)
    async with opened(engine_home, residency=policy) as client:
        with program(tmp_path / "assistant.py", STREAMING, "2000", home=engine_home) as assistant:
            assert await line(assistant) == "t"
            with pytest.raises(errors.MemoryBudgetExceeded) as caught:
                await client.complete("say-hello", model="two")
            assert f"one:1 (1 MB, used by assistant.py (pid {assistant.pid})" in str(caught.value)


async def test_an_idle_model_leaves_and_comes_back(engine_home: Path) -> None:
    events: list[Event] = []
    async with opened(engine_home, events, residency=ModelResidency(keep_alive_s=0.3)) as client:
        await client.complete("say-hello")
        await wait_until_async(lambda: any(isinstance(event, ModelUnloaded) for event in events))
        assert await inside(client) == set()
        assert (await client.complete("say-hello")).content == script("say-hello").text


async def test_several_are_loaded_and_one_is_swapped(engine_home: Path) -> None:
    async with opened(engine_home) as client:
        models = await client.models.ensure_loaded(["two", "one"])
        assert [model.alias for model in models] == ["two", "one"]
        assert (await client.models.swap("one", "three")).alias == "three"
        assert await inside(client) == {"two", "three"}
        with pytest.raises(errors.CatalogUnavailable):  # offline, nobody knows
            await client.models.swap("two", "nobody")
        assert await inside(client) == {"two", "three"}


@pytest.mark.parametrize("damage", ["garbage", "a directory"])
async def test_a_damaged_file_of_uses_is_never_what_a_call_fails_of(
    engine_home: Path, damage: str
) -> None:
    path = Paths.from_home(engine_home).usage_file
    if damage == "garbage":
        path.write_bytes(b"no database " * 400)
    else:
        path.mkdir()
    async with opened(engine_home) as client:
        assert (await client.complete("say-hello")).content == script("say-hello").text
        await client.models.unload("one")
        assert await inside(client) == set()


async def test_an_engine_of_ones_own_is_agreed_on_with_nobody(home: Path) -> None:
    async with FoundryAPIClient(home=home, service="embedded") as client:
        await client.models.load("demo")
        await client.models.unload("demo")
        assert not Paths.from_home(home).usage_file.exists()


def test_the_command_line_loads_swaps_and_unloads(engine_home: Path, tmp_path: Path) -> None:
    loaded = run_command("models", "load", "one", "two", home=engine_home)
    assert loaded.stdout.splitlines() == ["one is loaded: one:1", "two is loaded: two:1"]
    told = run_command("models", "load", "one", "two", "--json", home=engine_home).stdout
    assert [model["id"] for model in json.loads(told)["models"]] == ["one:1", "two:1"]
    swapped = run_command("models", "swap", "one", "three", home=engine_home)
    assert swapped.stdout == "three is loaded in place of one: three:1\n"
    with program(tmp_path / "assistant.py", STREAMING, "2000", home=engine_home) as assistant:
        assert assistant.stdout
        assistant.stdout.readline()
        refused = run_command("models", "unload", "one", home=engine_home)
        assert refused.returncode == 1
        assert f"one:1 is used by assistant.py (pid {assistant.pid}), last" in refused.stderr
        forced = run_command("models", "unload", "one", "--force", home=engine_home)
        assert forced.returncode == 1
        assert "1 session(s) still using it" in forced.stderr, "the engine has the last word"
    unloaded = run_command("models", "unload", "one", "--drain", "1", home=engine_home)
    assert unloaded.stdout == "one is no longer loaded: one:1\n"
    wrong = run_command("models", "unload", "one", "--drain", "-1", home=engine_home)
    assert wrong.returncode == 2
