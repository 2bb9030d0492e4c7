"""A Ray cluster, joined or begun, for as long as a run takes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from foundry_api._version import __version__
from foundry_api.types.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
    from collections.abc import Set as AbstractSet

__all__ = ["ANSWER_S", "START_S", "Node", "able", "cluster"]


OBJECT_STORE_BYTES = 80 * 2**20
"""About the least that Ray takes. Only numbers of blocks lie there."""

CONNECT_S = 5.0

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # what fails is raised, and told once
}


@asynccontextmanager
async def cluster(address: str | None) -> AsyncGenerator[None]:
    """Be part of a cluster.

    A program that is part of one already stays so, and keeps that when this ends.

    Args:
        address: Of a cluster that runs, or `auto` for the one of this machine; None for that of
            `RAY_ADDRESS`, or else for one of this machine alone, which ends with this.

    Raises:
        BatchError: Ray is not installed, there is no such cluster, or it could not be begun.
    """
    ray = _ray()
    if ray.is_initialized():
        with _set(QUIET):
            yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        await _knock(address)
    with _directory(address) as directory, _set(QUIET):
        try:
            await asyncio.to_thread(_enter, ray, address, directory)
            yield
        finally:
            # Also when it was left halfway in: a thread cannot be cancelled.
            await asyncio.to_thread(ray.shutdown)


async def _knock(address: str) -> None:
    """Ray itself tries for minutes where nobody answers."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # `auto`, and whatever else Ray has a meaning for
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, OverflowError) as error:
        raise _refused(address, error) from error
    writer.close()


def _ray() -> Any:
    try:
        with _set(QUIET):
            return import_module("ray")
    except ImportError as error:
        raise BatchError(
            f"Ray cannot be imported: {error}", hint="pip install 'foundry-api[ray]'"
        ) from error


def _enter(ray: Any, address: str | None, directory: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            # It listens to the network, as every Ray does, and wants a token by default: one that
            # only its own processes know. Ray reads it once in a process, so it stays.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            with _deaf_to_interrupts():
                ray.init(
                    "local",
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=directory,
                    **quiet,
                )
        else:
            ray.init(address, **quiet)
    except Exception as error:  # Ray raises what it likes
        raise _refused(address, error) from error


def _refused(address: str | None, error: Exception) -> BatchError:
    told = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    if address is None:
        return BatchError(f"Ray could not be started on this machine: {told}")
    return BatchError(
        f"the Ray cluster at {address} cannot be joined: {told}",
        hint="See whether it runs with `ray status`. This program has to run on one of its nodes, "
        "with the same versions of Python and Ray.",
    )


@contextmanager
def _directory(address: str | None) -> Generator[str | None]:
    """Where a cluster of our own keeps its sockets and logs, until it ends."""
    if address is not None:
        yield None
        return
    directory = tempfile.mkdtemp(prefix="foundry-ray-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _deaf_to_interrupts() -> Generator[None]:
    """Ctrl-C reaches all processes of a terminal: those that begin here leave it to this one.

    It ends them in order. Windows has no such mask.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _set(variables: dict[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


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
