"""Which nodes of a cluster a batch runs on, before anything is started there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api._version import __version__
from foundry_api.batch.cluster.cluster import Node, usable_nodes
from foundry_api.types.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ONE, TWO = Node("1", "one (10.0.0.1)"), Node("2", "two (10.0.0.2)")
AT_ONCE = 0.0
"""So long a node may take: what is there is seen, and nothing is waited for."""


def versions(**told: str | Exception | None) -> Callable[[str], Awaitable[str]]:
    """What each node answers; None never does."""

    async def version_on(node: str) -> str:
        answer = told[f"on_{node}"]
        if answer is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    return version_on


async def test_all_that_have_the_same_version_can_work() -> None:
    told: list[str] = []
    both = versions(on_1=__version__, on_2=__version__)
    assert await usable_nodes([ONE, TWO], both, told.append) == (ONE, TWO)
    assert not told


async def test_a_node_with_another_version_ends_it_and_is_named() -> None:
    with pytest.raises(BatchError, match=r"two \(10\.0\.0\.2\) has foundry-api 0\.0\.1") as caught:
        await usable_nodes([ONE, TWO], versions(on_1=__version__, on_2="0.0.1"), print)
    assert f"foundry-api[ray]=={__version__}" in caught.value.hint


async def test_a_node_without_the_package_ends_it_and_is_named() -> None:
    missing = ModuleNotFoundError("pages of it\nModuleNotFoundError: No module named 'foundry_api'")
    with pytest.raises(
        BatchError, match=r"two .* cannot load foundry-api: No module named"
    ) as caught:
        await usable_nodes([ONE, TWO], versions(on_1=__version__, on_2=missing), print)
    assert f"foundry-api[ray]=={__version__}" in caught.value.hint


async def test_a_node_that_is_lost_meanwhile_or_starts_no_process_is_left_out() -> None:
    told: list[str] = []
    lost = versions(on_1=__version__, on_2=RuntimeError("the node died"))
    assert await usable_nodes([ONE, TWO], lost, told.append) == (ONE,)
    late = versions(on_1=__version__, on_2=None)
    assert await usable_nodes([ONE, TWO], late, told.append, answer_s=AT_ONCE) == (ONE,)
    assert [each.partition(":")[0] for each in told] == [TWO.name, TWO.name]
    assert "the node died" in told[0]
    assert "ray status" in told[1]


async def test_it_is_told_that_none_has_begun_and_the_first_is_enough() -> None:
    told: list[str] = []
    begun = asyncio.Event()

    def tell(sentence: str) -> None:
        told.append(sentence)
        begun.set()

    async def version_on(node: str) -> str:
        if node == TWO.id:
            await asyncio.get_running_loop().create_future()
        await begun.wait()
        return __version__

    assert await usable_nodes([ONE, TWO], version_on, tell, answer_s=AT_ONCE, start_s=60) == (ONE,)
    assert "no node of the cluster has started a process" in told[0]


async def test_a_cluster_where_nothing_begins_is_given_up() -> None:
    none = versions(on_1=None, on_2=None)
    with pytest.raises(BatchError, match="no node of the cluster can start a process") as caught:
        await usable_nodes([ONE, TWO], none, lambda _: None, answer_s=AT_ONCE, start_s=AT_ONCE)
    assert "ray status" in caught.value.hint
