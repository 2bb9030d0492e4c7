"""An upstream of the kind `ray`, whose program that follows the cluster is replaced.

tests/service/test_ray.py has a real cluster.
"""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.cluster.messages import ClusterView, EngineAddress, EngineNode
from foundry_api.gateway.upstreams import ray_cluster
from foundry_api.resilience.backoff import Backoff
from gateway.helpers import post
from gateway.serving import CHAT, call, make_body
from gateway.several import serve_upstreams
from gateway.test_metrics import read
from gateway.test_upstreams import count, get_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    import pytest

    from foundry_api.engine.endpoint import Endpoint
    from gateway.serving import ServedGateway

# Prints the lines of a file as they are written, and ends with status 1 at an empty one. The next
# program begins after that.
PROGRAM = r"""
import sys, threading, time, os
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
with open(sys.argv[1], "rb") as file:
    last = file.read().rfind(b"\n\n")
    file.seek(last + 2 if last >= 0 else 0)
    while True:
        line = file.readline()
        if line == b"\n":
            sys.exit("[2026 E 1] rpc_client.h:204: the head is gone")
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
        if not line:
            time.sleep(0.01)
"""


class Views:
    """Tells the gateway what is known of the cluster."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def write(self, *nodes: EngineNode, problem: str = "") -> None:
        view = ClusterView(problem=problem, nodes=nodes)
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(msgspec.json.encode(view).decode() + "\n")

    def end(self) -> None:
        """End the program; the next one prints nothing until something is written."""
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write("\n")


def make_node(key: str, url: str = "", problem: str = "") -> EngineNode:
    address = EngineAddress(url=url, token=url, pid=1, version="1") if url else None
    state: Any = "serving" if url else "starting"
    return EngineNode(id=f"id-{key}", name=key, state=state, problem=problem, address=address)


@asynccontextmanager
async def serve(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *others: dict[str, Any]
) -> AsyncGenerator[tuple[ServedGateway, Views]]:
    views = Views(directory / "views")
    command = [sys.executable, "-c", PROGRAM, str(directory / "views")]
    monkeypatch.setattr(ray_cluster, "make_module_command", lambda _: command)
    monkeypatch.setattr(ray_cluster, "RESTART_BACKOFF", Backoff(base_s=0.01, cap_s=0.01))
    upstream = {"name": "cluster", "kind": "ray", "weight": 2.0, "aliases": {"fast": "scripted"}}
    async with serve_upstreams(directory / "gateway", upstream, *others) as served:
        yield served, views


def describe(served: ServedGateway) -> dict[str, tuple[str, str]]:
    return {
        one.name: (one.state, one.problem) for one in served.gateway.context.upstreams.describe()
    }


async def test_engines_of_a_cluster_join_change_and_leave(
    engine: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = engine.base_url
    async with serve(tmp_path, monkeypatch) as (served, views):
        assert describe(served) == {"cluster": ("down", "the cluster is being joined")}
        await get_json(served.http, "/readyz", 503)
        assert await call(served.http, make_body("say-hello")) == (503, "upstream_unavailable")
        views.write(make_node("one", problem="its engine is being started"))
        await served.wait_until(lambda: "cluster/one" in describe(served))
        assert describe(served) == {"cluster/one": ("unknown", "its engine is being started")}

        views.write(make_node("one", url), make_node("two", "http://127.0.0.1:1"))
        await served.wait_until(lambda: next(iter(describe(served).values()))[0] == "up")
        for model in ("scripted", "fast"):
            await post(served.http, CHAT, make_body("say-hello", model))
        (one, two) = (await get_json(served.http, "/api/status"))["upstreams"]
        assert (one["name"], one["kind"], one["weight"]) == ("cluster/one", "ray", 2)
        assert (two["name"], two["state"]) == ("cluster/two", "down")
        values = await read(served.http)
        assert count(values, "cluster/one") == 2

        # The head of the cluster is gone, and so is what follows it; the engine answers.
        (service, _) = served.gateway.context.client.services
        views.end()
        await served.wait_until(lambda: "cluster" in describe(served))
        assert describe(served)["cluster"] == (
            "down",
            "the program that follows the cluster has ended with status 1: the head is gone",
        )
        await post(served.http, CHAT, make_body("say-hello"))
        views.write(make_node("one", problem="its actor is lost"))
        await served.wait_until(lambda: "cluster" not in describe(served))
        assert served.gateway.context.client.services == (service,)
        await post(served.http, CHAT, make_body("say-hello"))

        # Its actor was started again, at another address.
        views.write(make_node("one", f"{url}/"))
        await served.wait_until(lambda: service not in served.gateway.context.client.services)
        await served.wait_until(lambda: describe(served)["cluster/one"][0] == "up")
        await post(served.http, CHAT, make_body("say-hello"))
        assert count(await read(served.http), "cluster/one") == 5

        views.write(problem="none of its nodes has the labels and resources")
        await served.wait_until(lambda: "cluster/one" not in describe(served))
        assert describe(served)["cluster"][0] == "down"
        assert await call(served.http, make_body("say-hello")) == (503, "upstream_unavailable")
        labels = {text for sample in await read(served.http) for text in sample}
        assert "upstream=cluster/one" not in labels


async def test_an_answer_that_has_begun_goes_on_when_its_node_leaves(
    engine: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"name": "other", "url": engine.base_url, "weight": 0.001, "slots": 2}
    async with serve(tmp_path, monkeypatch, other) as (served, views):
        views.write(make_node("one", engine.base_url.replace("127.0.0.1", "localhost")))
        await served.wait_until(lambda: describe(served).get("cluster/one", "-")[0] == "up")
        body = make_body("say-slowly", stream=True)
        async with served.http.post(CHAT, json=body) as begun:
            assert await begun.content.readline()
            counts = served.gateway.context.upstreams.counts
            views.write()
            await served.wait_until(lambda: "cluster/one" not in describe(served))
            await post(served.http, CHAT, make_body("say-hello"))
            assert counts["other", "answered"] == 1
            assert await begun.content.readline() == b"\n"
            assert (await begun.content.readline()).startswith(b"data: {")  # the stream goes on
