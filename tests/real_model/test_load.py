"""Cancelled calls, many calls at once, and several programs with one engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from foundry_api import DeadlineExceeded, FoundryAPIClient
from foundry_api.engine import shared
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from real_model.models import CHAT, CHAT_MODEL, TIMEOUT_S
from real_model.processes import get_cpu_s
from service.helpers import list_hosts, start_program, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

STORY = "Write a very long story about the sea, the wind and the stars."
LONG = {"max_tokens": 4000, "temperature": 1, "seed": 3}
AT_ONCE = 64


async def leave_loop(client: FoundryAPIClient) -> None:
    async with contextlib.aclosing(client.stream_complete(STORY, **LONG)) as chunks:
        async for _ in chunks:
            break


async def break_stream(client: FoundryAPIClient) -> None:
    """Cancel a task while it reads a stream."""
    has_begun = asyncio.Event()

    async def read() -> None:
        async for chunk in client.stream_complete(STORY, **LONG):
            if chunk.content:
                has_begun.set()

    task = asyncio.create_task(read())
    await has_begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def expect_deadline(client: FoundryAPIClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await client.complete(STORY, deadline=3, **LONG)


async def cancel_many(client: FoundryAPIClient) -> None:
    """Cancel calls that are queued, in their prompt, and in their answer."""
    tasks = [asyncio.create_task(client.complete(STORY, **LONG)) for _ in range(20)]
    await leave_loop(client)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


@pytest.mark.parametrize("stop", [leave_loop, break_stream, expect_deadline, cancel_many])
async def test_a_stopped_answer_stops_the_engine(
    own_client: FoundryAPIClient,
    tmp_path: Path,
    stop: Callable[[FoundryAPIClient], Awaitable[None]],
) -> None:
    await own_client.complete("Hello", max_tokens=2)
    (host,) = list_hosts(tmp_path / "own")
    await stop(own_client)
    before = get_cpu_s(host)
    # An engine that worked on would use a core or two for minutes.
    await asyncio.sleep(3)
    assert get_cpu_s(host) - before < 0.5
    assert own_client.limiter.statistics().in_flight == 0
    assert (await own_client.complete("Hello", max_tokens=2)).usage.completion_tokens > 0


async def test_calls_at_once_are_all_answered(own_client: FoundryAPIClient) -> None:
    async def ask(number: int) -> str:
        answer = await own_client.complete(
            f"Count from {number}.", max_tokens=24, temperature=1, seed=number
        )
        assert answer.attempts[0].error is None
        return answer.content

    answers = await asyncio.gather(*map(ask, range(AT_ONCE)))
    assert all(answers)
    assert len(set(answers)) > AT_ONCE / 2, "each call got its own answer"
    statistics = own_client.limiter.statistics()
    assert (statistics.in_flight, statistics.queued, statistics.refused) == (0, 0, 0)
    assert 1 <= statistics.limit <= 16, "more at once is slower on every machine"
    again = [await ask(number) for number in (0, AT_ONCE // 2, AT_ONCE - 1)]
    assert again == [answers[0], answers[AT_ONCE // 2], answers[-1]], "as if it had been alone"


PROGRAM = f"""
import asyncio, json, sys
from foundry_api import FoundryAPIClient

async def main():
    async with FoundryAPIClient(home=sys.argv[1], model={CHAT!r}, timeout={TIMEOUT_S}) as client:
        print(json.dumps((await client.complete("Hello", max_tokens=1)).service), flush=True)
        sys.stdin.readline()
        prompts = ["What is the capital of France?", "Name a fruit.", "Say hello."]
        answers = await asyncio.gather(
            *(client.complete(prompt, max_tokens=30, temperature=0) for prompt in prompts * 2)
        )
        print(json.dumps([answer.content for answer in answers]), flush=True)
        if sys.argv[2] == "endless":
            async for chunk in client.stream_complete({STORY!r}, **{LONG!r}):
                print(json.dumps(chunk.content), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def shared_home(tmp_path: Path) -> Iterator[Path]:
    """A home with a shared engine that has the model."""
    paths = Paths.from_home(tmp_path / "shared")
    source = ModelSource(path=str(CHAT_MODEL), alias=CHAT)
    shared.start(paths, idle_timeout_s=600, options=HostOptions(paths=paths, models=(source,)))
    yield tmp_path / "shared"
    shared.stop(paths)


def start(home: Path, mode: str) -> subprocess.Popen[str]:
    return start_program(PROGRAM, str(home), mode, stdin=subprocess.PIPE)


def read_json(program: subprocess.Popen[str]) -> object:
    assert program.stdout
    return json.loads(program.stdout.readline())


def test_several_programs_share_one_engine(shared_home: Path) -> None:
    """One of them is killed while it reads an answer. The others get theirs."""
    programs = [start(shared_home, mode) for mode in ("endless", "finish", "finish")]
    try:
        (host,) = list_hosts(shared_home)
        assert len({str(read_json(program)) for program in programs}) == 1, "one service"
        for program in programs:
            assert program.stdin
            program.stdin.write("go\n")
            program.stdin.flush()
        answers = [read_json(program) for program in programs]
        assert answers[0] == answers[1] == answers[2]
        assert "Paris" in str(answers[0])
        endless, *others = programs
        read_json(endless)
        endless.kill()
        endless.wait()
        for program in others:
            _, errors = program.communicate(timeout=60)
            assert (program.returncode, errors) == (0, "")
        assert list_hosts(shared_home) == [host]
        # The answer that the killed program was reading has 4,000 tokens: a minute of work.
        wait_until(lambda: host.cpu_percent(1) < 20)
        with start(shared_home, "finish") as later:
            read_json(later)
            output, _ = later.communicate("go\n", timeout=120)
        assert json.loads(output) == answers[0]
    finally:
        for program in programs:
            program.kill()
            program.communicate()
