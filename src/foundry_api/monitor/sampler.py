"""Puts together what one look, the client's calls and the canary tell, and judges it."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Protocol

from foundry_api.monitor.canary import CanaryKeeper
from foundry_api.monitor.probe import Looker, WantedModels
from foundry_api.monitor.process import Restarts
from foundry_api.monitor.state import StateMachine, judge
from foundry_api.monitor.types import HealthSample, Traffic
from foundry_api.types.events import CallEnded, FirstToken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.core.service_pool import Service
    from foundry_api.monitor.probe import Look
    from foundry_api.monitor.state import Hysteresis, Turn
    from foundry_api.monitor.types import HealthState
    from foundry_api.types.events import Event, Events, Outcome

__all__ = ["Sampler", "TrafficMeter", "Watched"]


class Watched(Protocol):
    """What a monitor can look at, such as a client."""

    @property
    def services(self) -> tuple[Service, ...]:
        """The services that it calls; the first one is looked at."""
        ...

    @property
    def events(self) -> Events:
        """What happens to its calls."""
        ...


class Sampler:
    """Makes samples of a service.

    Args:
        client: Whose service.
        traffic: Hears what its calls come to.
        interval_s: Seconds between two samples.
        timeout_s: Bound of a look.
        models: Names of the models that have to be in memory.
        canary_every: Samples from one canary to the next; 0 for never.
        canary_timeout_s: Bound of a canary.
        hysteresis: How many looks it takes to change the state.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        client: Watched,
        traffic: TrafficMeter,
        *,
        interval_s: float,
        timeout_s: float,
        models: Sequence[str],
        canary_every: int,
        canary_timeout_s: float,
        hysteresis: Hysteresis,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service = client.services[0]
        self._traffic = traffic
        self._interval_s = interval_s
        self._clock = clock
        self._looker = Looker(service, timeout_s)
        self._wanted = WantedModels(models)
        self._restarts = Restarts()
        self._states = StateMachine(hysteresis)
        self._address: str | None = None  # whoever is told that it is gone wants to know what
        self._canaries: CanaryKeeper | None = None
        if canary_every:
            self._canaries = CanaryKeeper(
                service, client.events, every=canary_every, timeout_s=canary_timeout_s
            )

    @property
    def state(self) -> HealthState:
        """The state of the service."""
        return self._states.state

    async def sample(self, *, waits: bool) -> tuple[HealthSample, Turn | None]:
        """Look once; the sample, and the change of the state that it led to.

        Args:
            waits: Wait for the canary that this look made, if any.

        Raises:
            ClientClosed: The client was closed.
        """
        look = await self._looker.look()
        traffic = self._traffic.take()
        found = self._wanted.in_memory(look.loaded or ())
        missing = tuple(name for name in self._wanted.names if name not in found)
        self._note_process(look)
        connection = self._looker.connection
        if look.error is None and connection is not None:
            await self._wanted.ask(connection, missing)
            if self._canaries is not None:
                models = [*found.values(), *sorted(look.loaded or ()), ""]
                self._canaries.looked(connection, models[0], traffic)
                if waits:
                    await self._canaries.done()
        return self._judged(look, missing, traffic)

    async def aclose(self) -> None:
        """End what goes on in the background."""
        if self._canaries is not None:
            await self._canaries.aclose()
        await self._wanted.aclose()
        await self._looker.aclose()

    def _note_process(self, look: Look) -> None:
        before = self._restarts.count
        self._restarts.saw(look.pid, look.process.started_at if look.process else None)
        if self._canaries is not None and self._restarts.count > before:
            self._canaries.forget()

    def _judged(
        self, look: Look, missing: tuple[str, ...], traffic: Traffic
    ) -> tuple[HealthSample, Turn | None]:
        breaker, canaries, process = (
            self._service.breaker.statistics(),
            self._canaries,
            look.process,
        )
        verdict = judge(look, missing, canaries.failure if canaries else None, breaker)
        now = self._clock()
        self._address = look.service or self._address
        # A service that this program only starts is not down, as long as it never was up.
        unborn = look.pending and self.state == "unknown"
        turn = None if unborn else self._states.saw(verdict.status, now)
        sample = HealthSample(
            status=verdict.status,
            state=self._states.state,
            ready=verdict.ready and (canaries is None or canaries.proven),
            detail=verdict.detail,
            service=self._address,
            generation=look.generation,
            version=look.version,
            latency_s=look.latency_s,
            loaded_models=tuple(sorted(look.loaded or ())),
            pid=look.pid,
            memory_usage=process.memory_bytes if process else None,
            uptime=now - process.started_at if process else None,
            cpu_percent=process.cpu_percent if process else None,
            threads=process.threads if process else None,
            restarts=self._restarts.count,
            traffic=traffic,
            canary=canaries.last if canaries else None,
            breaker=breaker,
            limiter=self._service.limiter.statistics(),
            checked_at=now,
            interval_s=self._interval_s,
        )
        return sample, turn


MOST_VALUES = 2_000
"""Of each kind, between two looks. A median does not change much after that."""


class TrafficMeter:
    """A listener of the client's events that tells what came since it was asked last.

    Args:
        is_elsewhere: Tells of a service's base URL whether it is another than the watched one.
    """

    def __init__(self, is_elsewhere: Callable[[str | None], bool]) -> None:
        self._is_elsewhere = is_elsewhere
        self._begin()

    def __call__(self, event: Event) -> None:
        """Take note of a `FirstToken` or a `CallEnded`."""
        if isinstance(event, FirstToken) and not self._is_elsewhere(event.service):
            self._begun += 1
            if self._begun <= MOST_VALUES:
                self._first_token_s.append(event.time_to_first_token_s)
        elif isinstance(event, CallEnded) and not self._is_elsewhere(event.service):
            self._ended[event.outcome] += 1
            rate = event.timings.tokens_per_second
            if rate is not None and len(self._rates) < MOST_VALUES:
                self._rates.append(rate)

    def take(self) -> Traffic:
        """What came since the last time."""
        traffic = Traffic(
            answered=self._ended["answered"],
            failed=self._ended["failed"],
            cancelled=self._ended["cancelled"],
            first_tokens=self._begun,
            time_to_first_token_s=median(self._first_token_s) if self._first_token_s else None,
            tokens_per_second=median(self._rates) if self._rates else None,
        )
        self._begin()
        return traffic

    def _begin(self) -> None:
        self._begun = 0
        self._ended: dict[Outcome, int] = {"answered": 0, "failed": 0, "cancelled": 0}
        self._first_token_s: list[float] = []
        self._rates: list[float] = []
