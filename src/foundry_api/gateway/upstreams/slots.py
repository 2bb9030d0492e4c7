"""The slots of the services behind the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.model_offer import ModelOffer
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.resilience.limiter import Limiter

__all__ = ["NamedSlots", "count_queue_slots", "count_slots"]

# The slots while there is no upstream.
NOWHERE = {"": 1}


class NamedSlots:
    """The slots of the upstreams that the configuration names."""

    def __init__(self, client: FoundryAPIClient) -> None:
        self._client = client

    @property
    def _services(self) -> Iterable[tuple[ServiceHandle, ModelOffer]]:
        for service in self._client.services:
            if service.offer is not None:
                yield service, service.offer

    def find_group(self, model: str) -> frozenset[str]:
        """Return the names of the upstreams that have a model; of all if none is known to."""
        names = [offer.options.name for _, offer in self._services if offer.has(model)]
        return frozenset(names or [offer.options.name for _, offer in self._services] or NOWHERE)

    def get_slots(self) -> dict[str, int]:
        """Return how many calls each healthy upstream takes at the same time, by its name."""
        return self._count(lambda limiter: limiter.limit)

    def get_queue_slots(self) -> dict[str, int]:
        """As `get_slots`, for the length of the queue: see `count_queue_slots`."""
        return self._count(_get_queue_slots)

    def _count(self, get_slots: Callable[[Limiter], int]) -> dict[str, int]:
        healthy = {
            offer.options.name: get_slots(service.limiter)
            for service, offer in self._services
            if service.is_healthy
        }
        # Without any, calls start all the same: they fail at once instead of waiting.
        return (
            healthy
            or {offer.options.name: get_slots(service.limiter) for service, offer in self._services}
            or NOWHERE
        )


def _get_queue_slots(limiter: Limiter) -> int:
    return max(limiter.limit, limiter.initial)


def count_slots(client: FoundryAPIClient) -> int:
    """Return how many calls the services of a client take at the same time."""
    services = client.services
    if len(services) == 1:  # asked several times for each call
        return services[0].limiter.limit
    return sum(service.limiter.limit for service in services)


def count_queue_slots(client: FoundryAPIClient) -> int:
    """Return how many slots the length of the queue is for.

    A limiter that tries fewer slots than it began with does not shorten the queue, because the
    calls that have waited for long enough would be refused in vain.
    """
    return sum(_get_queue_slots(service.limiter) for service in client.services)
