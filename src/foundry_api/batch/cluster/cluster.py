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

__all__ = ["ANSWER_TIMEOUT_S", "START_TIMEOUT_S", "Node", "connect_cluster", "usable_nodes"]


OBJECT_STORE_BYTES = 80 * 2**20
"""About the least that Ray takes. Only numbers of blocks lie there."""

CONNECT_TIMEOUT_S = 5.0

QUIET_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # what fails is raised, and told once
}


@asynccontextmanager
async def connect_cluster(address: str | None) -> AsyncGenerator[None]:
    """Be part of a cluster.

    A program that is part of one already stays so, and keeps that when this ends.

    Args:
        address: Of a cluster that runs, or `auto` for the one of this machine; None for that of
            `RAY_ADDRESS`, or else for one of this machine alone, which ends with this.

    Raises:
        BatchError: Ray is not installed, there is no such cluster, or it could not be begun.
    """
    ray = _import_ray()
    if ray.is_initialized():
        with _set_environment(QUIET_ENV):
            yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        await _check_reachable(address)
    with _temp_directory(address) as directory, _set_environment(QUIET_ENV):
        try:
            await asyncio.to_thread(_init_ray, ray, address, directory)
            yield
        finally:
            # Also when it was left halfway in: a thread cannot be cancelled.
            await asyncio.to_thread(ray.shutdown)


async def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes where nobody answers."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # `auto`, and whatever else Ray has a meaning for
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, OverflowError) as error:
        raise _connect_error(address, error) from error
    writer.close()


def _import_ray() -> Any:
    try:
        with _set_environment(QUIET_ENV):
            return import_module("ray")
    except ImportError as error:
        raise BatchError(
            f"Ray cannot be imported: {error}", hint="pip install 'foundry-api[ray]'"
        ) from error


def _init_ray(ray: Any, address: str | None, directory: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            # It listens to the network, as every Ray does, and wants a token by default: one that
            # only its own processes know. Ray reads it once in a process, so it stays.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            with _ignore_sigint():
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
        raise _connect_error(address, error) from error


def _connect_error(address: str | None, error: Exception) -> BatchError:
    message = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    if address is None:
        return BatchError(f"Ray could not be started on this machine: {message}")
    return BatchError(
        f"the Ray cluster at {address} cannot be joined: {message}",
        hint="See whether it runs with `ray status`. This program has to run on one of its nodes, "
        "with the same versions of Python and Ray.",
    )


@contextmanager
def _temp_directory(address: str | None) -> Generator[str | None]:
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
def _ignore_sigint() -> Generator[None]:
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
def _set_environment(variables: dict[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


ANSWER_TIMEOUT_S = 60.0
"""How long a node may take to start a process, before the run begins without it."""

START_TIMEOUT_S = 600.0
"""How long all of them may take."""

_STATUS_HINT = "`ray status` tells what the cluster waits for, and the logs of its nodes why."


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    Attributes:
        id: Ray's id of it.
        name: Its name and address, for people.
    """

    id: str
    name: str


async def usable_nodes(
    nodes: Sequence[Node],
    get_version: Callable[[str], Awaitable[str]],
    on_notice: Callable[[str], None],
    *,
    answer_s: float = ANSWER_TIMEOUT_S,
    start_s: float = START_TIMEOUT_S,
) -> tuple[Node, ...]:
    """The nodes that can work. One is enough to begin.

    Ray tells nothing of a node that it cannot start a process on, and of one without this package
    with pages of tracebacks; so each is asked for its version first.

    Args:
        nodes: Those that are there for work.
        get_version: The version of the package on the node with an id.
        on_notice: Called with sentences for people.
        answer_s: How long one of them may take.
        start_s: How long all of them may take.

    Raises:
        BatchError: A node has not the same version, or none answers.
    """
    nodes_by_future: dict[asyncio.Future[str], Node] = {
        asyncio.ensure_future(get_version(node.id)): node for node in nodes
    }
    try:
        done, late = await asyncio.wait(nodes_by_future, timeout=answer_s)
        if not done:
            on_notice(
                f"no node of the cluster has started a process in {answer_s:.0f} s. {_STATUS_HINT}"
            )
            done, late = await asyncio.wait(
                nodes_by_future, timeout=start_s - answer_s, return_when=asyncio.FIRST_COMPLETED
            )
        for future in late:
            on_notice(
                f"{nodes_by_future[future].name}: left out, since it starts no process. "
                f"{_STATUS_HINT}"
            )
        return _filter_usable(nodes_by_future, done, on_notice)
    finally:
        for future in nodes_by_future:
            future.cancel()


def _filter_usable(
    nodes_by_future: dict[asyncio.Future[str], Node],
    done: AbstractSet[asyncio.Future[str]],
    on_notice: Callable[[str], None],
) -> tuple[Node, ...]:
    usable: list[Node] = []
    for answer, node in nodes_by_future.items():
        if answer not in done:
            continue
        error = answer.exception()
        if error is None:
            _check_version(node, answer.result())
            usable.append(node)
        elif isinstance(error, ImportError):
            raise _version_mismatch(
                f"{node.name} cannot load foundry-api: {_last_line(error)}"
            ) from error
        else:
            on_notice(f"{node.name}: left out. {_last_line(error)}")
    if not usable:
        raise BatchError("no node of the cluster can start a process", hint=_STATUS_HINT)
    return tuple(usable)


def _check_version(node: Node, version: str) -> None:
    if version != __version__:
        raise _version_mismatch(
            f"{node.name} has foundry-api {version}, and this machine {__version__}"
        )


def _version_mismatch(message: str) -> BatchError:
    return BatchError(
        message,
        hint="Install the same version on every node, into the Python that runs Ray: "
        f"pip install 'foundry-api[ray]=={__version__}'",
    )


def _last_line(error: BaseException) -> str:
    """The last line, where Ray has a traceback ahead of it."""
    return str(error).strip().rpartition("\n")[2].rpartition("Error: ")[2]
