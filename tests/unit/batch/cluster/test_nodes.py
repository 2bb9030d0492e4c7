"""The choice of nodes for a batch, before anything starts there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api._version import __version__
from foundry_api.batch.cluster.cluster import Node, find_usable_nodes
from foundry_api.types.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ONE, TWO = Node("1", "one (10.0.0.1)"), Node("2", "two (10.0.0.2)")
NO_WAIT_S = 0.0  # answers that are there count, and nothing is waited for


def versions(**answers: str | Exception | None) -> Callable[[str], Awaitable[str]]:
    """Return a function that returns or raises each node's answer; None never answers."""

    async def get_version(node: str) -> str:
        answer = answers[f"on_{node}"]
        if answer is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    return get_version


async def test_nodes_with_the_same_version_are_usable() -> None:
    notices: list[str] = []
    both = versions(on_1=__version__, on_2=__version__)
    assert await find_usable_nodes([ONE, TWO], both, notices.append) == (ONE, TWO)
    assert not notices


async def test_node_with_another_version_is_reported() -> None:
    with pytest.raises(BatchError, match=r"two \(10\.0\.0\.2\) has foundry-api 0\.0\.1") as caught:
        await find_usable_nodes([ONE, TWO], versions(on_1=__version__, on_2="0.0.1"), print)
    assert f"foundry-api[ray]=={__version__}" in caught.value.hint


async def test_node_without_the_package_is_reported() -> None:
    missing = ModuleNotFoundError(
        "pages of tracebacks\nModuleNotFoundError: No module named 'foundry_api'"
    )
    with pytest.raises(
        BatchError, match=r"two .* cannot load foundry-api: No module named"
    ) as caught:
        await find_usable_nodes([ONE, TWO], versions(on_1=__version__, on_2=missing), print)
    assert f"foundry-api[ray]=={__version__}" in caught.value.hint


async def test_lost_or_stuck_node_is_left_out() -> None:
    notices: list[str] = []
    lost = versions(on_1=__version__, on_2=RuntimeError("the node died"))
    assert await find_usable_nodes([ONE, TWO], lost, notices.append) == (ONE,)
    late = versions(on_1=__version__, on_2=None)
    assert await find_usable_nodes([ONE, TWO], late, notices.append, node_timeout_s=NO_WAIT_S) == (
        ONE,
    )
    assert [notice.partition(":")[0] for notice in notices] == [TWO.name, TWO.name]
    assert "the node died" in notices[0]
    assert "ray status" in notices[1]


async def test_slow_start_is_reported_and_the_first_node_is_enough() -> None:
    notices: list[str] = []
    is_reported = asyncio.Event()

    def report(sentence: str) -> None:
        notices.append(sentence)
        is_reported.set()

    async def get_version(node: str) -> str:
        if node == TWO.id:
            await asyncio.get_running_loop().create_future()
        await is_reported.wait()
        return __version__

    assert await find_usable_nodes(
        [ONE, TWO], get_version, report, node_timeout_s=NO_WAIT_S, first_node_timeout_s=60
    ) == (ONE,)
    assert "no node of the cluster has started a process" in notices[0]


async def test_cluster_that_starts_nothing_is_given_up() -> None:
    none = versions(on_1=None, on_2=None)
    with pytest.raises(BatchError, match="no node of the cluster can start a process") as caught:
        await find_usable_nodes(
            [ONE, TWO],
            none,
            lambda _: None,
            node_timeout_s=NO_WAIT_S,
            first_node_timeout_s=NO_WAIT_S,
        )
    assert "ray status" in caught.value.hint
