"""The nodes of a cluster that can work: they have CPUs, they answer, and they have this package."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api._version import __version__
from foundry_api.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from collections.abc import Set as AbstractSet

__all__ = ["ANSWER_S", "START_S", "Node", "able"]

ANSWER_S = 60.0
"""How long a node may take to start a process, before the run begins without it."""

START_S = 600.0
"""How long all of them may take."""

_STATUS = "`ray status` tells what the cluster waits for, and the logs of its nodes why."


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        id: Ray's id of it.
        name: Its name and address, for people.
    """

    id: str
    name: str


async def able(
    nodes: Sequence[Node],
    version_on: Callable[[str], Awaitable[str]],
    tell: Callable[[str], None],
    *,
    answer_s: float = ANSWER_S,
    start_s: float = START_S,
) -> tuple[Node, ...]:
    """The nodes that can work. One is enough to begin.

    Ray tells nothing of a node that it cannot start a process on, and of one without this package
    with pages of tracebacks; so each is asked for its version first.

    Args:
        nodes: Those that are there for work.
        version_on: The version of the package on the node with an id.
        tell: Called with sentences for people.
        answer_s: How long one of them may take.
        start_s: How long all of them may take.

    Raises:
        BatchError: A node has not the same version, or none answers.
    """
    asked: dict[asyncio.Future[str], Node] = {
        asyncio.ensure_future(version_on(node.id)): node for node in nodes
    }
    try:
        done, late = await asyncio.wait(asked, timeout=answer_s)
        if not done:
            tell(f"no node of the cluster has started a process in {answer_s:.0f} s. {_STATUS}")
            done, late = await asyncio.wait(
                asked, timeout=start_s - answer_s, return_when=asyncio.FIRST_COMPLETED
            )
        for each in late:
            tell(f"{asked[each].name}: left out, since it starts no process. {_STATUS}")
        return _able(asked, done, tell)
    finally:
        for each in asked:
            each.cancel()


def _able(
    asked: dict[asyncio.Future[str], Node],
    done: AbstractSet[asyncio.Future[str]],
    tell: Callable[[str], None],
) -> tuple[Node, ...]:
    able: list[Node] = []
    for answer, node in asked.items():
        if answer not in done:
            continue
        error = answer.exception()
        if error is None:
            _check(node, answer.result())
            able.append(node)
        elif isinstance(error, ImportError):
            raise _differs(f"{node.name} cannot load foundry-api: {_told(error)}") from error
        else:
            tell(f"{node.name}: left out. {_told(error)}")
    if not able:
        raise BatchError("no node of the cluster can start a process", hint=_STATUS)
    return tuple(able)


def _check(node: Node, version: str) -> None:
    if version != __version__:
        raise _differs(f"{node.name} has foundry-api {version}, and this machine {__version__}")


def _differs(message: str) -> BatchError:
    return BatchError(
        message,
        hint="Install the same version on every node, into the Python that runs Ray: "
        f"pip install 'foundry-api[ray]=={__version__}'",
    )


def _told(error: BaseException) -> str:
    """The last line, where Ray has a traceback ahead of it."""
    return str(error).strip().rpartition("\n")[2].rpartition("Error: ")[2]
