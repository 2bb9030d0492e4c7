"""Connect to a Ray cluster, or start one, for the duration of a run; find its usable nodes."""

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
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from foundry_api._version import __version__
from foundry_api.batch.cluster.local_ray import end_local_ray
from foundry_api.types.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

__all__ = [
    "Node",
    "check_reachable",
    "check_version",
    "connect_cluster",
    "find_usable_nodes",
    "get_last_line",
    "make_import_error",
]


# About the minimum that Ray accepts. It only holds block numbers.
OBJECT_STORE_BYTES = 80 * 2**20

CONNECT_TIMEOUT_S = 5.0

# How long a node may take to start a process before the run begins without it, and how long the run
# waits for a first node, without which it cannot begin.
NODE_TIMEOUT_S = 60.0
FIRST_NODE_TIMEOUT_S = 600.0

QUIET_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # errors are raised, and reported once
}

_STATUS_HINT = (
    "`ray status` shows what the cluster is waiting for, and the logs of its nodes show why."
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster."""

    id: str  # Ray's id
    name: str  # name and address, for messages
    label: str = ""  # the name that `ray start --node-name` gave it, by default its address
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    resources: Mapping[str, float] = field(default_factory=dict[str, float])


@asynccontextmanager
async def connect_cluster(
    address: str | None, *, namespace: str | None = None
) -> AsyncGenerator[None]:
    """Connect to the cluster, unless this program is part of one already."""
    try:
        with _set_environment(QUIET_ENV):
            ray: Any = import_module("ray")
    except ImportError as error:
        raise BatchError(
            f"Ray cannot be imported: {error}", hint="pip install 'ray[data]'"
        ) from error
    if ray.is_initialized():
        with _set_environment(QUIET_ENV):
            yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        await check_reachable(address)
    with _temp_directory(address) as directory, _set_environment(QUIET_ENV):
        connecting = asyncio.ensure_future(
            asyncio.to_thread(_init_ray, ray, address, directory, namespace)
        )
        try:
            await asyncio.shield(connecting)
            yield
        finally:
            # Its thread cannot be cancelled, and would go on to start the processes of a cluster.
            await asyncio.gather(connecting, return_exceptions=True)
            if directory is None:
                await asyncio.to_thread(ray.shutdown)
            else:
                await asyncio.to_thread(end_local_ray, ray, directory)


async def check_reachable(address: str) -> None:
    """Raise BatchError if nothing accepts connections at the address of a cluster."""
    # Ray itself retries an unreachable address for minutes.
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # `auto`, or another form that only Ray understands
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, OverflowError) as error:
        raise _connect_error(address, error) from error
    writer.close()


def _init_ray(ray: Any, address: str | None, directory: str | None, namespace: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": namespace}
    try:
        if address is None:
            # Ray always listens on the network, so its processes authenticate with a token that
            # only they know. Ray reads it once per process, so the variable stays set.
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
    except Exception as error:  # Ray raises many types
        raise _connect_error(address, error) from error


def _connect_error(address: str | None, error: Exception) -> BatchError:
    message = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    if address is None:
        return BatchError(f"Ray could not be started on this machine: {message}")
    return BatchError(
        f"the Ray cluster at {address} cannot be joined: {message}",
        hint="Check with `ray status` that it is running. This program has to run on one of its "
        "nodes, with the same versions of Python and Ray, and with RAY_AUTH_MODE=token and the "
        "token of the cluster if it has one.",
    )


@contextmanager
def _temp_directory(address: str | None) -> Generator[str | None]:
    """Make a directory for the sockets and logs of a cluster of our own."""
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
    """Block Ctrl-C in the processes that start here."""
    # Ctrl-C reaches all processes of a terminal. Those of the cluster leave it to this process,
    # which ends them in order. Windows has no such mask.
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


async def find_usable_nodes(
    nodes: Sequence[Node],
    get_version: Callable[[str], Awaitable[str]],
    on_notice: Callable[[str], None],
    *,
    node_timeout_s: float = NODE_TIMEOUT_S,
    first_node_timeout_s: float = FIRST_NODE_TIMEOUT_S,
) -> tuple[Node, ...]:
    """Return the nodes that can work; one is enough to begin."""
    # Ray reports nothing about a node on which it cannot start a process, and pages of tracebacks
    # about one without this package. So each node is first asked for the package's version.
    nodes_by_future: dict[asyncio.Future[str], Node] = {
        asyncio.ensure_future(get_version(node.id)): node for node in nodes
    }
    try:
        done, late = await asyncio.wait(nodes_by_future, timeout=node_timeout_s)
        if not done:
            on_notice(
                f"no node of the cluster has started a process in {node_timeout_s:.0f} s. "
                f"{_STATUS_HINT}"
            )
            done, late = await asyncio.wait(
                nodes_by_future,
                timeout=first_node_timeout_s - node_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        for future in late:
            on_notice(
                f"{nodes_by_future[future].name}: left out, because it does not start a process. "
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
            check_version(node, answer.result())
            usable.append(node)
        elif isinstance(error, ImportError):
            raise make_import_error(node, error) from error
        else:
            on_notice(f"{node.name}: left out. {get_last_line(error)}")
    if not usable:
        raise BatchError("no node of the cluster can start a process", hint=_STATUS_HINT)
    return tuple(usable)


def check_version(node: Node, version: str) -> None:
    """Raise if a node has another version of this package than this machine."""
    if version != __version__:
        raise _make_version_error(
            f"{node.name} has foundry-api {version}, and this machine {__version__}"
        )


def make_import_error(node: Node, error: BaseException) -> BatchError:
    """Return the error for a node that cannot import this package."""
    return _make_version_error(f"{node.name} cannot load foundry-api: {get_last_line(error)}")


def _make_version_error(message: str) -> BatchError:
    return BatchError(
        message,
        hint="Install the same version on every node, into the Python that runs Ray: "
        f"pip install 'foundry-api[ray]=={__version__}'",
    )


def get_last_line(error: BaseException) -> str:
    """Return the message of an error of Ray without its traceback."""
    return str(error).strip().rpartition("\n")[2].rpartition("Error: ")[2]
