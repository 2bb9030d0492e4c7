"""Puts together what one look, the client's calls and the canary tell, and judges it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from foundry_api.monitor.canary import CanaryKeeper
from foundry_api.monitor.looker import Looker
from foundry_api.monitor.process import Restarts
from foundry_api.monitor.readiness import WantedModels
from foundry_api.monitor.sample import HealthSample
from foundry_api.monitor.state import StateMachine
from foundry_api.monitor.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.events import Events
    from foundry_api.monitor.looker import Look
    from foundry_api.monitor.sample import HealthState, Traffic
    from foundry_api.monitor.state import Hysteresis, Turn
    from foundry_api.monitor.traffic import TrafficMeter
    from foundry_api.services import Service

__all__ = ["Sampler", "Watched"]


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
