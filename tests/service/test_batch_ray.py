"""Batches over a real Ray cluster: nodes are processes of this machine, engines are real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import aclosing, contextmanager
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
from service.helpers import ROOT, list_hosts, wait_until
from service.ray_cluster import Nodes, run_ray_cluster
from support.cli_program import command, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from foundry_api.engine.supervisor import EngineHost

pytest.importorskip("ray", reason="Ray has no build for this platform")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.skipif(sys.platform == "win32", reason="it has neither such clusters nor Ctrl-C"),
]

PATIENCE_S = 120
"""A run takes some twenty processes: on a busy machine that lasts."""

QUESTIONS = 20
"""Of which the lines ask one after the other."""

WIDE = 2_000
"""Characters of a line: few of them lie in a pipe and in the reader's buffer."""


def body(number: int) -> dict[str, Any]:
    message = {"role": "user", "content": f"What is {number} plus {number}?"}
    return {"model": "demo", "messages": [message], "max_tokens": 8, "temperature": 0}


def written(index: int) -> str:
    """A line of OpenAI's batch files."""
    name = {"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**name, "body": body(index % QUESTIONS)}).ljust(WIDE) + "\n"


async def works(wanted: Callable[[], bool]) -> AsyncIterator[WorkItem]:
    """As many as are wanted, each question twice."""
    index = 0
    while wanted():
        request = BatchRequest(custom_id=str(index), body=body(index // 2))
        yield WorkItem(Line(index, index + 1, 7 * index, b"raw"), request)
        index += 1


def read(path: Path) -> dict[int, str]:
    """What each line was answered. Fails if one comes twice."""
    told: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        output = json.loads(line)
        index = int(output["custom_id"])
        assert index not in told
        told[index] = output["response"]["body"]["choices"][0]["message"]["content"]
    return told


async def local_answers(home: Path) -> list[str]:
    """What an engine of this machine answers to each of the questions."""
    async with FoundryAPIClient(home=home, model="demo", service="embedded") as client:
        asked = [body(number)["messages"][0]["content"] for number in range(QUESTIONS)]
        return [
            (await client.complete(each, max_tokens=8, temperature=0)).content for each in asked
        ]


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """One cluster at a time, whoever else runs these tests: each is half a dozen processes."""
    with FileLock(Path(os.environ["FOUNDRY_TEST_HOME"]) / "ray.lock", timeout_s=240):
        yield


@pytest.fixture(scope="module")
def nodes(alone: None) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with run_ray_cluster() as nodes:
            yield nodes


@pytest.fixture
def cluster(nodes: Nodes) -> Nodes:
    """A cluster of two nodes."""
    nodes.set_count()
    return nodes


class Runner:
    """`foundry-api batch run`, at the head of a process group as in a terminal.

    Args:
        directory: Where its output goes.
        home: Of its engines.
        engine: What answers.
    """

    def __init__(self, directory: Path, home: Path, *engine: str) -> None:
        self.output = directory / "answers.jsonl"
        self._told = directory / "told.txt"
        run = ("batch", "run", "-", "-o", str(self.output), "--format", "openai", "--no-check")
        with self._told.open("w") as told:
            self.process = subprocess.Popen(
                command(*run, "--service", "embedded", "--engine", *engine),
                stdin=subprocess.PIPE,
                stdout=told,
                stderr=told,
                # Ray's own code is not free of warnings.
                env=environment(home, PYTHONWARNINGS=""),
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
    def told(self) -> str:
        return self._told.read_text(encoding="utf-8")

    def feed(self, count: int) -> None:
        """Write so many lines, as soon as they are taken."""
        assert self.process.stdin is not None
        for _ in range(count):
            self.process.stdin.write(written(self.count))
            self.count += 1
        self.process.stdin.flush()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def exit_code(self) -> int:
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


class Scene:
    """What happens to a run: each thing when the one before it has shown its effect."""

    def __init__(self, *steps: tuple[Callable[[], object], Callable[[], object]]) -> None:
        self._steps = list(steps)

    def go_on(self) -> None:
        """Do the next thing, if it is time for it."""
        if self._steps and self._steps[0][0]():
            self._steps.pop(0)[1]()

    @property
    def over(self) -> bool:
        return not self._steps


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait()


def test_ctrl_c_leaves_nothing_of_a_ray_of_its_own_and_the_batch_goes_on(
    alone: None, home: Path, tmp_path: Path
) -> None:
    with Runner(tmp_path, home, "ray") as runner:
        runner.feed(BLOCK_LINES)
        wait_until(lambda: list_hosts(home), within_s=PATIENCE_S)
        family = psutil.Process(runner.process.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in family)
        runner.interrupt()
        assert runner.exit_code() == 130, runner.told
        assert "Run the same command to resume." in runner.told
        assert "Traceback" not in runner.told
    wait_until(lambda: not any(map(psutil.Process.is_running, family)))
    with Runner(tmp_path, home, "local") as runner:  # which is begun sooner than another Ray
        runner.feed(BLOCK_LINES)
        assert runner.exit_code() == 0, runner.told
    assert sorted(read(runner.output)) == list(range(BLOCK_LINES))


@contextmanager
def no_cpu_free(cluster: Nodes) -> Iterator[None]:
    """Another program has reserved all CPUs. This process is part of the cluster meanwhile."""
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


async def test_given_services_are_used_where_no_cpu_is_free_and_one_that_ends_is_left_out(
    cluster: Nodes, home: Path, start: Callable[..., EngineHost]
) -> None:
    one, two = start(models=get_demo_models()), start(models=get_demo_models())
    urls = [(await each.wait_ready()).base_url for each in (one, two)]
    settings = Settings(home=home, model="demo", base_urls=tuple(urls))
    told: list[str] = []
    left_out = Scene((lambda: any("left out" in each for each in told), lambda: None))
    with no_cpu_free(cluster):
        engine = RayEngine(settings=settings, patience_s=0.1, dedupe=True, on_notice=told.append)
        seen: dict[int, bool] = {}
        async with aclosing(engine.run(works(lambda: not left_out.over))) as answers:
            async for each in answers:
                assert each.index not in seen
                assert not each.failed, each.output
                seen[each.index] = each.shared
                if len(seen) == QUESTIONS:
                    await one.aclose()
                left_out.go_on()
    assert sorted(seen) == list(range(len(seen)))
    assert sum(seen.values()) == len(seen) // 2, "whichever of them asks, the other one is told"
    assert {each.partition("an actor for ")[2] for each in told if "an actor for" in each} == {
        *urls
    }


async def test_a_node_without_the_package_is_named_with_what_to_do(
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
        await anext(engine.run(works(lambda: True)))
    assert "pip install 'foundry-api[ray]==" in caught.value.hint


async def test_each_line_comes_once_though_an_engine_and_a_node_are_killed(
    cluster: Nodes, home: Path, tmp_path: Path
) -> None:
    with Runner(tmp_path, home, "ray", "--ray-address", cluster.address) as runner:
        scene = Scene(
            (lambda: len(list_hosts(home)) == 2, lambda: kill(list_hosts(home)[0])),
            (lambda: len(list_hosts(home)) == 2, cluster.kill),
            (lambda: "an actor was lost" in runner.told, lambda: None),
        )
        while not scene.over:
            runner.feed(5)
            scene.go_on()
        assert runner.exit_code() == 0, runner.told
    assert f"{runner.count} lines: {runner.count} succeeded" in runner.told
    assert runner.told.count("an engine of its own") == 2
    answers, local = read(runner.output), await local_answers(home)
    assert answers == {index: local[index % QUESTIONS] for index in range(runner.count)}
    wait_until(lambda: not list_hosts(home))


async def test_a_cluster_that_is_not_there_is_named(home: Path) -> None:
    engine = RayEngine(address="127.0.0.1:1", settings=Settings(home=home, model="demo"))
    with pytest.raises(errors.BatchError, match=r"127\.0\.0\.1:1 cannot be joined"):
        await anext(engine.run(works(lambda: True)))
