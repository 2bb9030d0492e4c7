"""The engines on the nodes of a Ray cluster, as services of the gateway's client."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.cluster.messages import ClusterView, FollowOptions
from foundry_api.resilience.backoff import Backoff
from foundry_api.storage.process import BACKGROUND_FLAGS, make_module_command
from foundry_api.types.services import ServiceOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from foundry_api.batch.cluster.messages import EngineAddress, EngineNode
    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.gateway.upstreams.config import UpstreamConfig

__all__ = ["RayCluster"]

log = logging.getLogger("foundry_api.gateway")

FOLLOW_MODULE = "foundry_api.batch.cluster.engine_nodes"
RESTART_BACKOFF = Backoff(base_s=1.0, cap_s=30.0)
# A view of 1,000 nodes has 300 KB.
MAX_VIEW_BYTES = 16 * 2**20
MAX_ERROR_BYTES = 4096
STOP_TIMEOUT_S = 5.0
MAX_REASON_CHARS = 200

# As in `[2026-11-30 16:13:11,999 E 25003 25794] rpc_client.h:204: Failed to connect`.
_LOG_PREFIX = re.compile(r"^\[[^\]]*\](?: \S+:\d+:)? *")


class RayCluster:
    """An upstream of the kind `ray`.

    A program of its own is connected to the cluster, see `batch.cluster.engine_nodes`. While the
    cluster cannot be asked, the engines that it had are called as before.

    Args:
        config: The upstream.
        client: Gets a service for each engine.
        on_change: Called after engines have joined, left or changed.
        command: Starts the program.
        sleep: Waits before the program is started again.

    Attributes:
        config: The upstream.
        nodes: Its nodes, by Ray's id.
        problem: Why the cluster cannot be used; empty if it can.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        client: FoundryAPIClient,
        on_change: Callable[[], object],
        *,
        command: Sequence[str] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = config
        self._client = client
        self._on_change = on_change
        self._command = command or make_module_command(FOLLOW_MODULE)
        self._sleep = sleep
        self._services: dict[str, tuple[EngineAddress, ServiceHandle]] = {}
        self._failures = 0
        self.nodes: dict[str, EngineNode] = {}
        self.problem = "the cluster is being joined"

    def find_node(self, service: ServiceHandle) -> EngineNode | None:
        """Return the node of a service; None if it is not of this cluster."""
        for identifier, (_, known) in self._services.items():
            if known is service:
                return self.nodes[identifier]
        return None

    def list_nodes_without_service(self) -> list[EngineNode]:
        """Return the nodes whose engines have not served yet."""
        return [node for key, node in self.nodes.items() if key not in self._services]

    def make_name(self, node: EngineNode) -> str:
        """Return the name of an engine in metrics, in the log and in `/api/status`."""
        return f"{self.config.name}/{node.name}"

    async def run(self) -> None:
        """Follow the cluster. Never returns."""
        while True:
            try:
                reason = await self._run_program()
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                reason = f" cannot be run: {error}"
            self._failures += 1
            if reason:
                self._set_problem(f"the program that follows the cluster{reason}")
            await self._sleep(RESTART_BACKOFF.delay_s(self._failures))

    async def _run_program(self) -> str:
        """Run the program to its end. Return its reason, unless it has reported a problem."""
        config = self.config
        options = FollowOptions(
            address=config.address,
            labels=config.labels,
            resources=config.resources,
            max_nodes=config.max_nodes,
            port=config.engine_port,
        )
        process = await asyncio.create_subprocess_exec(
            *self._command,
            msgspec.json.encode(options).decode(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_VIEW_BYTES,
            start_new_session=True,  # a terminal's Ctrl-C is for the gateway, which ends it
            creationflags=BACKGROUND_FLAGS,
        )
        stdout, stderr = process.stdout, process.stderr
        if stdout is None or stderr is None:  # never, with pipes
            raise ValueError(self._command)
        errors = asyncio.ensure_future(_read_tail(stderr))
        has_reported = False
        try:
            while line := await stdout.readline():
                view = msgspec.json.decode(line, type=ClusterView)
                await self._apply(view)
                has_reported = view.nodes is None
                if view.nodes is not None:
                    self._failures = 0
            status = await process.wait()
            tail = await errors
        finally:
            await _stop(process)
            errors.cancel()
            await asyncio.gather(errors, return_exceptions=True)
        if has_reported:
            return ""
        return f" has ended with status {status}" + (f": {tail}" if tail else "")

    async def _apply(self, view: ClusterView) -> None:
        """Add and remove services, so that there is one for each engine."""
        if view.nodes is None:
            self._set_problem(view.problem)
            return
        self.problem = view.problem
        names = {key: self.make_name(node) for key, node in self.nodes.items()}
        self.nodes = {node.id: node for node in view.nodes}
        for key, (address, service) in list(self._services.items()):
            node = self.nodes.get(key)
            # While an actor is started again, its last address stays: calls find out that it is
            # gone, and a program that was started again has not heard of it yet.
            if (
                node is None
                or self.make_name(node) != names[key]
                or node.address not in {None, address}
            ):
                del self._services[key]
                log.info("%s has left", names[key])
                await self._client.remove_service(service)
        for key, node in self.nodes.items():
            if node.address is not None and key not in self._services:
                service = await self._client.add_service(self._make_options(node, node.address))
                self._services[key] = node.address, service
                log.info("%s serves at %s", self.make_name(node), node.address.url)
        self._on_change()

    def _make_options(self, node: EngineNode, address: EngineAddress) -> ServiceOptions:
        config = self.config
        return ServiceOptions(
            name=self.make_name(node),
            base_url=address.url,
            models=config.models,
            aliases=config.aliases,
            weight=config.weight,
            concurrency=config.slots,
            get_api_key=lambda: address.token,
        )

    def _set_problem(self, problem: str) -> None:
        if problem != self.problem:  # once for each cause
            log.warning("the Ray cluster of upstream %s: %s", self.config.name, problem)
        self.problem = problem
        self._on_change()


async def _read_tail(stream: asyncio.StreamReader) -> str:
    """Read a stream to its end, and return its last line, without the place in Ray's code."""
    tail = b""
    while block := await stream.read(MAX_ERROR_BYTES):
        tail = (tail + block)[-MAX_ERROR_BYTES:]
    line = tail.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return _LOG_PREFIX.sub("", line)[:MAX_REASON_CHARS]


async def _stop(process: Any) -> None:
    """End the program: it ends with its standard input."""
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
