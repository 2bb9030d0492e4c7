"""Batches and a gateway on a real Ray cluster, with real engines.

Its nodes are processes on this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.batch.journal import BLOCK_LINES
from foundry_api.batch.ray_engine import RayEngine
from foundry_api.batch.types import BatchRequest, Line, WorkItem
from foundry_api.engine.process import get_demo_models
from foundry_api.storage.lock import FileLock
from foundry_api.types import errors
from foundry_api.types.settings import Settings
from gateway.helpers import post
from gateway.serving import CHAT, make_body
from gateway.several import serve_upstreams
from service.helpers import ROOT, has_ended, list_hosts, wait_until
from service.ray_cluster import Nodes, run_ray_cluster
from support.cli_program import make_command, make_environment
from support.scripted_model import build, script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from foundry_api.engine.supervisor import EngineHost
    from gateway.serving import ServedGateway

pytest.importorskip("ray", reason="Ray has no build for this platform")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.skipif(
        sys.platform == "win32", reason="Windows has neither such clusters nor Ctrl-C"
    ),
]

PATIENCE_S = 120  # a run starts about twenty processes, which takes time on a busy machine

QUESTIONS = 20  # the lines repeat them in turn

LINE_LENGTH = 2_000  # so long that few lines fit into a pipe and the reader's buffer


def body(number: int) -> dict[str, Any]:
    message = {"role": "user", "content": f"What is {number} plus {number}?"}
    return {"model": "demo", "messages": [message], "max_tokens": 8, "temperature": 0}


def format_line(index: int) -> str:
    """Return a line of an OpenAI batch file."""
    name = {"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**name, "body": body(index % QUESTIONS)}).ljust(LINE_LENGTH) + "\n"


async def make_items(is_needed: Callable[[], bool]) -> AsyncIterator[WorkItem]:
    """Yield lines until they are no longer needed, each question twice."""
    index = 0
    while is_needed():
        request = BatchRequest(custom_id=str(index), body=body(index // 2))
        yield WorkItem(Line(index, index + 1, 7 * index, b"raw"), request)
        index += 1


def read_answers(path: Path) -> dict[int, str]:
    """Return the answers by index. Fails if a line occurs twice."""
    answers: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        output = json.loads(line)
        index = int(output["custom_id"])
        assert index not in answers
        answers[index] = output["response"]["body"]["choices"][0]["message"]["content"]
    return answers


async def local_answers(home: Path) -> list[str]:
    """Return the answers of an engine on this machine."""
    async with FoundryAPIClient(home=home, model="demo", service="embedded") as client:
        prompts = [body(number)["messages"][0]["content"] for number in range(QUESTIONS)]
        return [
            (await client.complete(prompt, max_tokens=8, temperature=0)).content
            for prompt in prompts
        ]


@pytest.fixture(scope="module")
def cluster_lock() -> Iterator[None]:
    """Run one cluster at a time on this machine: each has half a dozen processes."""
    with FileLock(Path(os.environ["FOUNDRY_TEST_HOME"]) / "ray.lock", timeout_s=240):
        yield


@pytest.fixture(scope="module")
def nodes_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engines for a gateway have their files, whose settings are those of their node."""
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def nodes(cluster_lock: None, nodes_home: Path) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with run_ray_cluster(FOUNDRY_HOME=str(nodes_home)) as nodes:
            yield nodes


@pytest.fixture
def cluster(nodes: Nodes) -> Nodes:
    """A cluster of two nodes."""
    nodes.set_count()
    return nodes


class Runner:
    """A `batch run` command that leads a process group, as in a terminal."""

    def __init__(self, directory: Path, home: Path, *engine: str) -> None:
        self.output = directory / "answers.jsonl"
        self._log_path = directory / "log.txt"
        run = ("batch", "run", "-", "-o", str(self.output), "--format", "openai", "--no-check")
        with self._log_path.open("w") as log:
            self.process = subprocess.Popen(
                make_command(*run, "--service", "embedded", "--engine", *engine),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ray's own code raises warnings.
                env=make_environment(home, PYTHONWARNINGS=""),
                start_new_session=True,
                text=True,
            )
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    @property
    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8")

    def feed(self, count: int) -> None:
        """Write lines. Blocks while the pipe is full."""
        assert self.process.stdin is not None
        for _ in range(count):
            self.process.stdin.write(format_line(self.count))
            self.count += 1
        self.process.stdin.flush()

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        os.killpg(self.process.pid, signal.SIGINT)

    def exit_code(self) -> int:
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


class Steps:
    """Steps of a test: each runs once its condition holds, in order."""

    def __init__(self, *steps: tuple[Callable[[], object], Callable[[], object]]) -> None:
        self._steps = list(steps)

    def advance(self) -> None:
        """Run the next step, if its condition holds."""
        if self._steps and self._steps[0][0]():
            self._steps.pop(0)[1]()

    @property
    def is_over(self) -> bool:
        return not self._steps


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait()


def test_ctrl_c_ends_a_local_ray_and_the_batch_resumes(
    cluster_lock: None, home: Path, tmp_path: Path
) -> None:
    with Runner(tmp_path, home, "ray") as runner:
        runner.feed(BLOCK_LINES)
        wait_until(lambda: list_hosts(home), within_s=PATIENCE_S)
        family = psutil.Process(runner.process.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in family)
        runner.interrupt()
        assert runner.exit_code() == -signal.SIGINT, runner.log
        assert "Run the same command to resume." in runner.log
        assert "Traceback" not in runner.log
    assert all(map(has_ended, family))
    with Runner(tmp_path, home, "local") as runner:  # starts sooner than another Ray
        runner.feed(BLOCK_LINES)
        assert runner.exit_code() == 0, runner.log
    assert sorted(read_answers(runner.output)) == list(range(BLOCK_LINES))


@contextmanager
def no_cpu_free(cluster: Nodes) -> Iterator[None]:
    """Connect to the cluster, and reserve all its CPUs."""
    import ray  # noqa: PLC0415 - half a second

    class Other:
        def here(self) -> bool:
            return True

    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        others = [ray.remote(num_cpus=1)(Other).remote() for _ in range(2)]
        assert all(ray.get([other.here.remote() for other in others]))  # type: ignore[attr-defined]
        yield
    finally:
        ray.shutdown()


async def test_services_work_without_free_cpus_and_a_closed_one_is_left_out(
    cluster: Nodes, home: Path, start: Callable[..., EngineHost]
) -> None:
    one, two = start(models=get_demo_models()), start(models=get_demo_models())
    urls = [(await host.wait_ready()).base_url for host in (one, two)]
    settings = Settings(home=home, model="demo", base_urls=tuple(urls))
    notices: list[str] = []
    left_out = Steps((lambda: any("left out" in notice for notice in notices), lambda: None))
    with no_cpu_free(cluster):
        engine = RayEngine(settings=settings, patience_s=0.1, dedupe=True, on_notice=notices.append)
        seen: dict[int, bool] = {}
        async with aclosing(engine.run(make_items(lambda: not left_out.is_over))) as answers:
            async for result in answers:
                assert result.index not in seen
                assert not result.failed, result.output
                seen[result.index] = result.shared
                if len(seen) == QUESTIONS:
                    await one.aclose()
                left_out.advance()
    assert sorted(seen) == list(range(len(seen)))
    assert sum(seen.values()) == len(seen) // 2, "one line of each pair shares the answer"
    assert {
        notice.partition("an actor for ")[2] for notice in notices if "an actor for" in notice
    } == {*urls}


async def test_node_without_the_package_is_reported(
    cluster: Nodes, home: Path, tmp_path: Path
) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'foundry_api'\")"
    (tmp_path / "foundry_api.py").write_text(missing, encoding="utf-8")
    engine = RayEngine(
        address=cluster.address, settings=Settings(home=home, model="demo", service="embedded")
    )
    with (
        cluster.add_node(PYTHONPATH=str(tmp_path)),
        pytest.raises(errors.BatchError, match="cannot load foundry-api: No module") as caught,
    ):
        await anext(engine.run(make_items(lambda: True)))
    assert "pip install 'foundry-api[ray]==" in caught.value.hint


async def test_killed_engine_and_node_lose_and_repeat_no_line(
    cluster: Nodes, home: Path, tmp_path: Path
) -> None:
    with Runner(tmp_path, home, "ray", "--ray-address", cluster.address) as runner:
        steps = Steps(
            (lambda: len(list_hosts(home)) == 2, lambda: kill(list_hosts(home)[0])),
            (lambda: len(list_hosts(home)) == 2, cluster.kill),
            (lambda: "an actor was lost" in runner.log, lambda: None),
        )
        while not steps.is_over:
            runner.feed(5)
            steps.advance()
        assert runner.exit_code() == 0, runner.log
    assert f"{runner.count:,} lines: {runner.count:,} succeeded" in runner.log
    assert runner.log.count("an actor with its own engine") == 2
    answers, local = read_answers(runner.output), await local_answers(home)
    assert answers == {index: local[index % QUESTIONS] for index in range(runner.count)}
    wait_until(lambda: not list_hosts(home))


async def test_missing_cluster_is_reported(home: Path) -> None:
    engine = RayEngine(address="127.0.0.1:1", settings=Settings(home=home, model="demo"))
    with pytest.raises(errors.BatchError, match=r"127\.0\.0\.1:1 cannot be joined"):
        await anext(engine.run(make_items(lambda: True)))


def names_by_state(served: ServedGateway, state: str) -> list[str]:
    upstreams = served.gateway.context.upstreams.describe()
    return sorted(one.name for one in upstreams if one.state == state)


async def test_a_gateway_follows_the_nodes_of_a_cluster_one_of_which_is_killed(
    cluster: Nodes, nodes_home: Path, tmp_path: Path
) -> None:
    build(tmp_path / "model")
    async with FoundryAPIClient(home=nodes_home, service="embedded") as client:
        await client.models.register(tmp_path / "model", "scripted")
    upstream = {"name": "cluster", "kind": "ray", "address": cluster.address, "slots": 3}
    slowly = make_body("say-slowly", stream=True)

    async def complete(prompt: str = "say-hello") -> str:
        answer = await post(served.http, CHAT, make_body(prompt))
        text: str = answer["choices"][0]["message"]["content"]
        return text

    async with serve_upstreams(tmp_path / "gateway", upstream) as served, AsyncExitStack() as stack:
        await served.wait_until(lambda: len(names_by_state(served, "up")) == 2)
        services = served.gateway.context.client.services
        for service in services:  # nobody but the gateway has its token
            async with served.http.get(f"{service.name}/status") as response:
                assert response.status == 401
        await served.wait_until(lambda: not any(service.limiter.load for service in services))
        streams = [
            await stack.enter_async_context(served.http.post(CHAT, json=slowly)) for _ in range(2)
        ]
        for stream in streams:
            assert await stream.content.readline()
        calls = [asyncio.create_task(complete("say-after-a-while")) for _ in range(2)]
        await served.wait_until(lambda: [one.limiter.load for one in services] == [2, 2])

        await asyncio.to_thread(cluster.kill)
        # Calls without a token are answered by the other node, and the stream says that it broke.
        assert await asyncio.gather(*calls) == [script("say-after-a-while").text] * 2
        texts = [asyncio.ensure_future(stream.text()) for stream in streams]
        (broken,), (unbroken,) = await asyncio.wait(texts, return_when=asyncio.FIRST_COMPLETED)
        assert '"code":"upstream_unavailable"' in broken.result()
        assert "[DONE]" not in broken.result()
        await served.wait_until(lambda: len(served.gateway.context.upstreams.describe()) == 1)
        assert not unbroken.done()
        unbroken.cancel()
        for stream in streams:
            stream.close()
        (left,) = served.gateway.context.client.services
        # The engine of the other node works for nobody any more.
        await served.wait_until(lambda: left.limiter.load == 0)

        # An engine that dies is started again by its actor, for the call that finds out.
        (host,) = list_hosts(nodes_home)
        kill(host)
        assert await complete() == script("say-hello").text

        # An actor that dies is started again by Ray, and a node that joins gets one.
        kill(get_actor(list_hosts(nodes_home)[0]))
        await served.wait_until(lambda: left not in served.gateway.context.client.services)
        cluster.set_count()  # in the main thread, where alone Ray can set its signal handlers
        await served.wait_until(lambda: len(names_by_state(served, "up")) == 2)
        services = served.gateway.context.client.services
        streams = [
            await stack.enter_async_context(served.http.post(CHAT, json=slowly)) for _ in range(2)
        ]
        await served.wait_until(lambda: [one.limiter.load for one in services] == [1, 1])
        for stream in streams:
            stream.close()


def get_actor(host: psutil.Process) -> psutil.Process:
    """Return the process of the actor that has an engine host."""
    actor = host.parent()
    assert actor is not None
    return actor
