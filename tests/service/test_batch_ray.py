"""Batches over a real Ray cluster: nodes are processes of this machine, engines are real ones."""

from __future__ import annotations

import warnings
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from foundry_api import FoundryAPIClient, errors
from foundry_api.batch.lines import BatchRequest, Line, Work
from foundry_api.batch.local_engine import LocalEngine
from foundry_api.batch.ray_engine import RayEngine
from foundry_api.settings import Settings
from service.helpers import ROOT, eventually, hosts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.batch.lines import Finished

pytest.importorskip("ray", reason="Ray has no build for this platform")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

LINES = 60


async def works(count: int = LINES) -> AsyncIterator[Work]:
    for index in range(count):
        body: dict[str, Any] = {
            "model": "demo",
            "messages": [{"role": "user", "content": f"What is {index} plus {index}?"}],
            "max_tokens": 24,
            "temperature": 0,
        }
        yield Work(
            Line(index, index + 1, 7 * index, b"raw"),
            BatchRequest(custom_id=f"line-{index}", body=body),
        )


async def answers(engine: BatchEngine) -> dict[int, str]:
    """What each line was answered. Fails if one comes twice."""
    told: dict[int, str] = {}
    async with aclosing(engine.answers(works())) as finished:
        async for each in finished:
            assert each.index not in told
            told[each.index] = content(each)
    return told


def content(finished: Finished) -> str:
    output = msgspec.json.decode(finished.output)
    assert (output["custom_id"], finished.digest) == (f"line-{finished.index}", 7 * finished.index)
    assert not finished.failed, output
    return str(output["response"]["body"]["choices"][0]["message"]["content"])


async def local_answers(settings: Settings) -> dict[int, str]:
    async with FoundryAPIClient(settings=settings) as client:
        return await answers(LocalEngine(client))


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home, model="demo", service="embedded")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that offers no CPUs, and two nodes of one CPU each."""
    monkeypatch.setenv("PYTHONPATH", ROOT)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - half a second

        own = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **own})
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        yield cluster
        cluster.shutdown()


def kill_node(cluster: Any) -> None:
    """End a node's processes, its actors among them, without a word."""
    node = cluster.list_all_nodes()[-1]
    (raylet,) = node.all_processes["raylet"]
    family = psutil.Process(raylet.process.pid)
    for process in [family, *family.children(recursive=True)]:
        process.kill()


async def test_each_line_comes_once_though_an_engine_and_a_node_are_killed(
    cluster: Any, settings: Settings, home: Path
) -> None:
    told: list[str] = []
    engine = RayEngine(address=cluster.address, settings=settings, tell=told.append)
    seen: dict[int, str] = {}
    async with aclosing(engine.answers(works())) as finished:
        async for each in finished:
            assert each.index not in seen
            seen[each.index] = content(each)
            if len(seen) == 1:
                eventually(lambda: len(hosts_of(home)) == 2, within_s=60)
            if len(seen) == 10:
                hosts_of(home)[0].kill()
            if len(seen) == 20:
                kill_node(cluster)
    assert sum("an engine of its own" in sentence for sentence in told) == 2
    eventually(lambda: not hosts_of(home))
    assert seen == await local_answers(settings)


async def test_without_a_cluster_it_is_this_machine_and_nothing_is_left(
    settings: Settings, home: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    engine = RayEngine(settings=settings)
    async with aclosing(engine.answers(works(100_000))) as finished:
        await anext(finished)
        assert len(hosts_of(home)) == 1
    eventually(lambda: not hosts_of(home))
    eventually(lambda: not set(psutil.Process().children(recursive=True)) - before)


async def test_a_cluster_that_is_not_there_is_named(settings: Settings) -> None:
    engine = RayEngine(address="127.0.0.1:1", settings=settings)
    with pytest.raises(errors.BatchError, match=r"127\.0\.0\.1:1 cannot be joined"):
        await anext(engine.answers(works()))
