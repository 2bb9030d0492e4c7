"""Batches over a real Ray cluster: nodes are processes of this machine, engines are real ones."""

from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from foundry_api import FoundryAPIClient, errors
from foundry_api.batch.lines import BatchRequest, Line, Work
from foundry_api.batch.local_engine import LocalEngine
from foundry_api.batch.ray_engine import RayEngine
from foundry_api.service.lock import FileLock
from foundry_api.settings import Settings
from service.helpers import ROOT, eventually, hosts_of
from service.ray_cluster import Nodes, ray_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from foundry_api.batch.lines import Finished

pytest.importorskip("ray", reason="Ray has no build for this platform")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

QUESTIONS = 20
"""Of which the lines ask one after the other."""


def work(index: int) -> Work:
    number = index % QUESTIONS
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"What is {number} plus {number}?"}],
        "max_tokens": 24,
        "temperature": 0,
    }
    return Work(
        Line(index, index + 1, 7 * index, b"raw"),
        BatchRequest(custom_id=f"line-{index}", body=body),
    )


async def works(wanted: Callable[[int], bool]) -> AsyncIterator[Work]:
    """As many as are wanted."""
    index = 0
    while wanted(index):
        yield work(index)
        index += 1


def content(finished: Finished) -> str:
    output = msgspec.json.decode(finished.output)
    assert (output["custom_id"], finished.digest) == (f"line-{finished.index}", 7 * finished.index)
    assert not finished.failed, output
    return str(output["response"]["body"]["choices"][0]["message"]["content"])


async def local_answers(settings: Settings) -> dict[int, str]:
    """What an engine of this machine answers to each of the questions."""
    async with FoundryAPIClient(settings=settings) as client:
        engine = LocalEngine(client)
        async with aclosing(engine.answers(works(lambda index: index < QUESTIONS))) as finished:
            return {each.index: content(each) async for each in finished}


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home, model="demo", service="embedded")


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """One cluster at a time, whoever else runs these tests: each is half a dozen processes."""
    with FileLock(Path(os.environ["FOUNDRY_TEST_HOME"]) / "ray.lock", timeout_s=100):
        yield


@pytest.fixture(scope="module")
def nodes(alone: None) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ROOT)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with ray_cluster() as nodes:
            yield nodes


@pytest.fixture
def cluster(nodes: Nodes) -> Nodes:
    """A cluster of two nodes."""
    nodes.complete()
    return nodes


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


async def test_each_line_comes_once_though_an_engine_and_a_node_are_killed(
    cluster: Nodes, settings: Settings, home: Path
) -> None:
    told: list[str] = []
    engine = RayEngine(address=cluster.address, settings=settings, tell=told.append)
    scene = Scene(
        (lambda: len(hosts_of(home)) == 2, lambda: kill(hosts_of(home)[0])),
        (lambda: len(hosts_of(home)) == 2, cluster.kill),
        (lambda: "an actor was lost" in " ".join(told), lambda: None),
    )
    seen: dict[int, str] = {}
    async with aclosing(engine.answers(works(lambda _: not scene.over))) as finished:
        async for each in finished:
            assert each.index not in seen
            seen[each.index] = content(each)
            scene.go_on()
    assert sorted(seen) == list(range(len(seen)))
    assert sum("an engine of its own" in sentence for sentence in told) == 2
    eventually(lambda: not hosts_of(home))
    local = await local_answers(settings)
    assert all(told == local[index % QUESTIONS] for index, told in seen.items())


async def test_without_a_cluster_it_is_this_machine_and_nothing_is_left(
    alone: None, settings: Settings, home: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    engine = RayEngine(settings=settings)
    async with aclosing(engine.answers(works(lambda _: True))) as finished:
        await anext(finished)
        assert len(hosts_of(home)) == 1
    eventually(lambda: not hosts_of(home))
    eventually(lambda: not set(psutil.Process().children(recursive=True)) - before)


async def test_a_cluster_that_is_not_there_is_named(settings: Settings) -> None:
    engine = RayEngine(address="127.0.0.1:1", settings=settings)
    with pytest.raises(errors.BatchError, match=r"127\.0\.0\.1:1 cannot be joined"):
        await anext(engine.answers(works(lambda _: True)))
