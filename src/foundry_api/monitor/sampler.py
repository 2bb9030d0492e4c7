"""Puts together what one look, the client's calls and the canary tell, and judges it."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Protocol

from foundry_api.monitor.canary import CanaryRunner
from foundry_api.monitor.probe import Probe, RequiredModels
from foundry_api.monitor.process import RestartCounter
from foundry_api.monitor.state import StateMachine, evaluate
from foundry_api.monitor.types import HealthSample, Traffic
from foundry_api.types.events import CallEnded, FirstToken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.monitor.probe import ProbeResult
    from foundry_api.monitor.state import Hysteresis, Transition
    from foundry_api.monitor.types import HealthState
    from foundry_api.types.events import Event, EventBus, Outcome

__all__ = ["MonitorTarget", "Sampler", "TrafficCounter"]


class MonitorTarget(Protocol):
    """What a monitor can look at, such as a client."""

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        """The services that it calls; the first one is looked at."""
        ...

    @property
    def events(self) -> EventBus:
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
        client: MonitorTarget,
        traffic: TrafficCounter,
        *,
        interval_s: float,
        timeout_s: float,
        models: Sequence[str],
        canary_every: int,
        canary_timeout_s: float,
        hysteresis: Hysteresis,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service = client.services[0]
        self._traffic = traffic
        self._interval_s = interval_s
        self._wall_clock = wall_clock
        self._probe = Probe(service, timeout_s)
        self._required = RequiredModels(models)
        self._restarts = RestartCounter()
        self._states = StateMachine(hysteresis)
        self._address: str | None = None  # whoever is told that it is gone wants to know what
        self._canary_runner: CanaryRunner | None = None
        if canary_every:
            self._canary_runner = CanaryRunner(
                service, client.events, every=canary_every, timeout_s=canary_timeout_s
            )

    @property
    def state(self) -> HealthState:
        """The state of the service."""
        return self._states.state

    async def sample(self, *, wait_for_canary: bool) -> tuple[HealthSample, Transition | None]:
        """Look once; the sample, and the change of the state that it led to.

        Args:
            wait_for_canary: Wait for the canary that this look made, if any.

        Raises:
            ClientClosed: The client was closed.
        """
        result = await self._probe.run()
        traffic = self._traffic.drain()
        loaded_ids = self._required.find_loaded(result.loaded or ())
        missing = tuple(name for name in self._required.names if name not in loaded_ids)
        self._update_restarts(result)
        connection = self._probe.connection
        if result.error is None and connection is not None:
            await self._required.refresh(connection, missing)
            if self._canary_runner is not None:
                models = [*loaded_ids.values(), *sorted(result.loaded or ()), ""]
                self._canary_runner.on_sample(connection, models[0], traffic)
                if wait_for_canary:
                    await self._canary_runner.wait_finished()
        return self._evaluate(result, missing, traffic)

    async def aclose(self) -> None:
        """End what goes on in the background."""
        if self._canary_runner is not None:
            await self._canary_runner.aclose()
        await self._required.aclose()
        await self._probe.aclose()

    def _update_restarts(self, result: ProbeResult) -> None:
        previous = self._restarts.count
        self._restarts.update(result.pid, result.process.started_at if result.process else None)
        if self._canary_runner is not None and self._restarts.count > previous:
            self._canary_runner.reset()

    def _evaluate(
        self, result: ProbeResult, missing: tuple[str, ...], traffic: Traffic
    ) -> tuple[HealthSample, Transition | None]:
        breaker, runner, process = (
            self._service.breaker.statistics(),
            self._canary_runner,
            result.process,
        )
        verdict = evaluate(result, missing, runner.failure if runner else None, breaker)
        now = self._wall_clock()
        self._address = result.service or self._address
        # A service that this program only starts is not down, as long as it never was up.
        never_started = result.pending and self.state == "unknown"
        transition = None if never_started else self._states.update(verdict.status, now)
        sample = HealthSample(
            status=verdict.status,
            state=self._states.state,
            ready=verdict.ready and (runner is None or runner.proven),
            detail=verdict.detail,
            service=self._address,
            service_generation=result.service_generation,
            version=result.version,
            latency_s=result.latency_s,
            loaded_models=tuple(sorted(result.loaded or ())),
            pid=result.pid,
            memory_usage=process.memory_bytes if process else None,
            uptime=now - process.started_at if process else None,
            cpu_percent=process.cpu_percent if process else None,
            threads=process.threads if process else None,
            restarts=self._restarts.count,
            traffic=traffic,
            canary=runner.last if runner else None,
            breaker=breaker,
            limiter=self._service.limiter.statistics(),
            checked_at=now,
            interval_s=self._interval_s,
        )
        return sample, transition


MAX_VALUES = 2_000
"""Of each kind, between two looks. A median does not change much after that."""


class TrafficCounter:
    """A listener of the client's events that tells what came since it was asked last.

    Args:
        is_elsewhere: Tells of a service's base URL whether it is another than the watched one.
    """

    def __init__(self, is_other_service: Callable[[str | None], bool]) -> None:
        self._is_other_service = is_other_service
        self._reset()

    def __call__(self, event: Event) -> None:
        """Take note of a `FirstToken` or a `CallEnded`."""
        if isinstance(event, FirstToken) and not self._is_other_service(event.service):
            self._first_tokens += 1
            if self._first_tokens <= MAX_VALUES:
                self._first_token_s.append(event.time_to_first_token_s)
        elif isinstance(event, CallEnded) and not self._is_other_service(event.service):
            self._outcomes[event.outcome] += 1
            rate = event.timings.tokens_per_second
            if rate is not None and len(self._rates) < MAX_VALUES:
                self._rates.append(rate)

    def drain(self) -> Traffic:
        """What came since the last time."""
        traffic = Traffic(
            answered=self._outcomes["answered"],
            failed=self._outcomes["failed"],
            cancelled=self._outcomes["cancelled"],
            first_tokens=self._first_tokens,
            time_to_first_token_s=median(self._first_token_s) if self._first_token_s else None,
            tokens_per_second=median(self._rates) if self._rates else None,
        )
        self._reset()
        return traffic

    def _reset(self) -> None:
        self._first_tokens = 0
        self._outcomes: dict[Outcome, int] = {"answered": 0, "failed": 0, "cancelled": 0}
        self._first_token_s: list[float] = []
        self._rates: list[float] = []
