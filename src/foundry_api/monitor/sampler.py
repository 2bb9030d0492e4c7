"""Combines a check, the client's calls and the canary into a sample."""

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

# Values of each kind to store between two samples. More would hardly change the median.
MAX_VALUES = 2_000


class MonitorTarget(Protocol):
    """An object that a monitor can watch, such as a client."""

    @property
    def services(self) -> tuple[ServiceHandle, ...]:
        """Its services, of which the first is watched."""
        ...

    @property
    def events(self) -> EventBus:
        """The events of its calls."""
        ...


class Sampler:
    """Takes samples of the first service of a client."""

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
        # The last address, which the samples keep when the service is gone.
        self._address: str | None = None
        self._canary_runner: CanaryRunner | None = None
        if canary_every:
            self._canary_runner = CanaryRunner(
                service, client.events, every=canary_every, timeout_s=canary_timeout_s
            )

    @property
    def state(self) -> HealthState:
        return self._states.state

    async def sample(self, *, wait_for_canary: bool) -> tuple[HealthSample, Transition | None]:
        """Check the service once, and return the change of state that this led to as well.

        `wait_for_canary` waits for the canary that this check started, if any.
        """
        result = await self._probe.run()
        traffic = self._traffic.drain()
        loaded_ids = self._required.find_loaded(result.loaded or ())
        missing = tuple(name for name in self._required.names if name not in loaded_ids)
        previous_restarts = self._restarts.count
        self._restarts.update(result.pid, result.process.started_at if result.process else None)
        if self._canary_runner is not None and self._restarts.count > previous_restarts:
            self._canary_runner.reset()
        connection = self._probe.connection
        if result.error is None and connection is not None:
            await self._required.refresh(connection, missing)
            if self._canary_runner is not None:
                # A required model if one is in memory, else any other.
                models = [*loaded_ids.values(), *sorted(result.loaded or ()), ""]
                self._canary_runner.on_sample(connection, models[0], traffic)
                if wait_for_canary:
                    await self._canary_runner.wait_finished()
        return self._evaluate(result, missing, traffic)

    async def aclose(self) -> None:
        """Stop the work in the background."""
        if self._canary_runner is not None:
            await self._canary_runner.aclose()
        await self._required.aclose()
        await self._probe.aclose()

    def _evaluate(
        self, result: ProbeResult, missing: tuple[str, ...], traffic: Traffic
    ) -> tuple[HealthSample, Transition | None]:
        breaker = self._service.breaker.statistics()
        runner, process = self._canary_runner, result.process
        evaluation = evaluate(result, missing, runner.failure if runner else None, breaker)
        checked_at = self._wall_clock()
        self._address = result.service or self._address
        # A service that has never run and is still being started is not down.
        is_first_start = result.pending and self.state == "unknown"
        transition = None if is_first_start else self._states.update(evaluation.status, checked_at)
        memory_bytes = uptime_s = None
        if process is not None:
            memory_bytes, uptime_s = process.memory_bytes, checked_at - process.started_at
        elif result.status is not None:
            memory_bytes, uptime_s = result.status.memory_bytes, result.status.uptime_s
        sample = HealthSample(
            status=evaluation.status,
            state=self._states.state,
            ready=evaluation.ready and (runner is None or runner.has_passed),
            detail=evaluation.detail,
            service=self._address,
            service_generation=result.service_generation,
            version=result.version,
            latency_s=result.latency_s,
            loaded_models=tuple(sorted(result.loaded or ())),
            pid=result.pid,
            memory_usage=memory_bytes,
            uptime=uptime_s,
            cpu_percent=process.cpu_percent if process else None,
            threads=process.threads if process else None,
            restarts=self._restarts.count,
            traffic=traffic,
            canary=runner.last if runner else None,
            breaker=breaker,
            limiter=self._service.limiter.statistics(),
            checked_at=checked_at,
            interval_s=self._interval_s,
        )
        return sample, transition


class TrafficCounter:
    """Counts the calls of a client, as a listener of its events.

    `is_other_service` returns whether a base URL is that of a service which is not watched.
    """

    def __init__(self, is_other_service: Callable[[str | None], bool]) -> None:
        self._is_other_service = is_other_service
        self._reset()

    def __call__(self, event: Event) -> None:
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
        """Return the calls since the last `drain`."""
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
