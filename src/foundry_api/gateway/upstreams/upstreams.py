"""The services behind the gateway: their health, their models, and their statistics."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Literal

import msgspec

from foundry_api.gateway.upstreams.key_file import KeyFile
from foundry_api.gateway.upstreams.ray_cluster import RayCluster
from foundry_api.types.errors import UnsupportedFeature
from foundry_api.types.events import CallEnded, RetryScheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.model_offer import ModelOffer
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.gateway.upstreams.config import UpstreamConfig
    from foundry_api.types.events import Event
    from foundry_api.types.models import Model

__all__ = ["UpstreamStatus", "Upstreams"]

# A listing for a request is at most this old.
MAX_LISTING_AGE_S = 1.0


UpstreamKind = Literal["foundry", "openai", "ray"]
UpstreamState = Literal["up", "down", "failing", "unknown"]


class UpstreamStatus(msgspec.Struct, kw_only=True):
    """The state of an upstream.

    Attributes:
        name: Its name; that of an engine of a Ray cluster has the name of its node.
        kind: `foundry`, `openai` or `ray`.
        state: `up`; `down` if it did not respond to the last check; `failing` while its circuit
            breaker is open, as calls fail; `unknown` before the first check.
        problem: Why it did not respond; empty if it did.
        in_flight: Calls that it works on.
        waiting: Calls that wait for it.
        slots: Calls that it gets at the same time.
        weight: Its share of the calls beside the others.
        models: Names of the models that it is called for.
    """

    name: str
    kind: UpstreamKind
    state: UpstreamState
    problem: str
    in_flight: int
    waiting: int
    slots: int
    weight: float
    models: list[str]


class Upstreams:
    """The services behind a gateway. A gateway without `[[upstream]]` has one without a name.

    Args:
        client: The client that calls them.
        fallbacks: Models to call in place of one that cannot answer, by its name.
        configs: The tables `[[upstream]]`, of which those of the kind `ray` are followed.
    """

    def __init__(
        self,
        client: FoundryAPIClient,
        fallbacks: Mapping[str, tuple[str, ...]],
        configs: Sequence[UpstreamConfig] = (),
    ) -> None:
        self._client = client
        self._fallbacks = {name.strip().lower(): chain for name, chain in fallbacks.items()}
        self._changed = asyncio.Event()
        self._clusters = [
            RayCluster(upstream, client, self._on_nodes_changed)
            for upstream in configs
            if upstream.kind == "ray"
        ]
        self.counts: Counter[tuple[str, str]] = Counter()  # attempts, by upstream and outcome
        if self.are_named:
            client.events.subscribe(self._count, RetryScheduled, CallEnded)

    @property
    def are_named(self) -> bool:
        """Whether the configuration names the upstreams."""
        return self._client.settings.services is not None

    @property
    def breaker_state(self) -> str:
        """The state of the circuit breaker of a service without a name."""
        return "closed" if self.are_named else self._client.breaker.state

    @property
    def _services(self) -> list[tuple[ServiceHandle, ModelOffer]]:
        services = self._client.services
        return [(service, service.offer) for service in services if service.offer is not None]

    async def watch(self, interval_s: float, on_checked: Callable[[], object]) -> None:
        """Follow the clusters, and check each upstream again and again. None waits for another."""

        async def check_repeatedly(service: ServiceHandle) -> None:
            while True:
                await service.check()
                on_checked()
                await asyncio.sleep(interval_s)

        clusters = [asyncio.ensure_future(cluster.run()) for cluster in self._clusters]
        checks: dict[ServiceHandle, asyncio.Task[None]] = {}
        try:
            while True:
                services = {service for service, _ in self._services}
                for service in checks.keys() - services:
                    checks.pop(service).cancel()
                for service in services - checks.keys():
                    checks[service] = asyncio.ensure_future(check_repeatedly(service))
                on_checked()
                self._changed.clear()
                await self._changed.wait()
        finally:
            tasks = [*clusters, *checks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def list_models(self, *, catalog: bool = False) -> Sequence[Model]:
        """List the models of all upstreams, each name once; those of Microsoft's with `catalog`.

        Raises:
            FoundryError: The only service does not respond.
        """
        if not self.are_named:
            return await self._client.models.list(catalog=catalog)
        # Each answer counts; an upstream that does not respond keeps nobody waiting.
        await asyncio.gather(
            *(
                service.check(max_age_s=MAX_LISTING_AGE_S)
                for service, _ in self._services
                if not service.problem
            )
        )
        return self.models

    @property
    def models(self) -> Sequence[Model]:
        """The models that the named upstreams listed last, each pair of id and alias once."""
        models: dict[tuple[str, str], Model] = {}
        for _, offer in self._services:
            for model in offer.models:
                name = (model.id.lower(), model.alias.lower())
                known = models.setdefault(name, model)
                if model.loaded and not known.loaded:
                    models[name] = msgspec.structs.replace(known, loaded=True)
        return list(models.values())

    def get_chain(self, model: str, is_allowed: Callable[[str], bool]) -> str | tuple[str, ...]:
        """Return a model with those that may be called in its place."""
        fallbacks = self._fallbacks.get(model.lower())
        if fallbacks is None:
            return model
        return (model, *filter(is_allowed, fallbacks))

    def refuse_changes(self) -> None:
        """Refuse to change the files of models if there are several machines that may be meant.

        Raises:
            UnsupportedFeature: The configuration names the upstreams.
        """
        if self.are_named:
            raise UnsupportedFeature(
                "a gateway with upstreams changes no files of models",
                hint="Use `foundry-api models` on the machine of the upstream.",
            )

    def list_problems(self) -> list[str]:
        """List why no call can be served."""
        if not self.are_named:
            return []
        if any(_get_state(service, offer) == "up" for service, offer in self._services):
            return []
        return ["no upstream responds"]

    def describe(self) -> list[UpstreamStatus]:
        """Return the state of each upstream, for people who manage the gateway."""
        statuses = [self._describe(service, offer) for service, offer in self._services]
        for cluster in self._clusters:
            if cluster.problem:
                statuses.append(_describe_absent(cluster, cluster.config.name, cluster.problem))
            for node in cluster.list_nodes_without_service():
                state: UpstreamState = "unknown" if node.state == "starting" else "down"
                name = cluster.make_name(node)
                statuses.append(_describe_absent(cluster, name, node.problem, state))
        return statuses

    def _describe(self, service: ServiceHandle, offer: ModelOffer) -> UpstreamStatus:
        kind: UpstreamKind = offer.options.protocol
        problem = service.problem
        for cluster in self._clusters:
            if (node := cluster.find_node(service)) is not None:
                kind = "ray"
                problem = problem and (node.problem or problem)
        return UpstreamStatus(
            name=offer.options.name,
            kind=kind,
            state=_get_state(service, offer),
            problem=problem,
            in_flight=service.limiter.load - service.limiter.queued,
            waiting=service.limiter.queued,
            slots=service.limiter.limit,
            weight=service.weight,
            models=sorted({model.alias or model.id for model in offer.models}),
        )

    def reload_keys(self) -> None:
        """Read the key files again. A file that cannot be used leaves the former key in use.

        Raises:
            ConfigurationError: A file cannot be used.
        """
        for _, offer in self._services:
            if isinstance(offer.options.get_api_key, KeyFile):
                offer.options.get_api_key.reload()

    def get_gauges(self) -> list[tuple[str, str, dict[str, float]]]:
        """Return metrics of the upstreams: name, description, and values by upstream."""
        handles = [(offer.options.name, service, offer) for service, offer in self._services]
        return [
            (
                "foundry_gateway_upstream_up",
                "1 if the upstream responded to its last check and its calls succeed.",
                {name: _get_state(one, offer) == "up" for name, one, offer in handles},
            ),
            (
                "foundry_gateway_upstream_in_flight",
                "Calls that the upstream works on.",
                {name: one.limiter.load - one.limiter.queued for name, one, _ in handles},
            ),
            (
                "foundry_gateway_upstream_slots",
                "Calls that the upstream gets at the same time.",
                {name: one.limiter.limit for name, one, _ in handles},
            ),
        ]

    def get_breaker_states(self) -> dict[str, str]:
        """Return the state of the circuit breaker of each upstream, by name."""
        return {offer.options.name: one.breaker.state for one, offer in self._services}

    def _on_nodes_changed(self) -> None:
        names = {offer.options.name for _, offer in self._services}
        names |= {one.make_name(node) for one in self._clusters for node in one.nodes.values()}
        for key in [key for key in self.counts if key[0] not in names]:
            del self.counts[key]  # nodes come and go, and each would leave its series of metrics
        self._changed.set()

    def _count(self, event: Event) -> None:
        """Count how an attempt ended."""
        if not isinstance(event, RetryScheduled | CallEnded):
            return
        outcome = event.outcome if isinstance(event, CallEnded) else "failed"
        # A service that cannot be reached is known to its error only.
        address = event.service or (event.error.service if event.error is not None else None)
        for service, offer in self._services:
            if service.name == address:
                self.counts[offer.options.name, outcome] += 1
                return


def _describe_absent(
    cluster: RayCluster, name: str, problem: str, state: UpstreamState = "down"
) -> UpstreamStatus:
    """Return the state of a cluster, or of a node, that has no engine yet."""
    return UpstreamStatus(
        name=name,
        kind="ray",
        state=state,
        problem=problem,
        in_flight=0,
        waiting=0,
        slots=0,
        weight=cluster.config.weight,
        models=[],
    )


def _get_state(service: ServiceHandle, offer: ModelOffer) -> UpstreamState:
    if service.problem:
        return "down"
    if service.breaker.state != "closed" and not service.breaker.is_probe_due:
        return "failing"
    return "up" if offer.is_listed else "unknown"
