"""`HealthMonitor`: checks a service at an interval, stores the results and reports changes."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections import deque
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from foundry_api.monitor.alerts import AlertCommand, AlertWebhook, Notifier
from foundry_api.monitor.health import HealthStatus
from foundry_api.monitor.sampler import Sampler, TrafficCounter
from foundry_api.monitor.state import Hysteresis
from foundry_api.monitor.summary import HealthSummary, summarise
from foundry_api.monitor.types import Canary, HealthChanged, HealthSample, HealthState, Traffic
from foundry_api.types.checks import check_name, check_several
from foundry_api.types.errors import CallTimeout, ClientClosed, InvalidRequest
from foundry_api.types.events import CallEnded, FirstToken
from foundry_api.types.user_code import UserCode
from foundry_api.types.values import as_float, as_int, as_path, format_value

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from foundry_api.monitor.sampler import MonitorTarget
    from foundry_api.monitor.store import StoreWriter

__all__ = [
    "AlertCommand",
    "AlertWebhook",
    "Canary",
    "HealthChanged",
    "HealthMonitor",
    "HealthSample",
    "HealthState",
    "HealthStatus",
    "HealthSummary",
    "Hysteresis",
    "Traffic",
]

log = logging.getLogger("foundry_api")

PROBE_TIMEOUT_S = 2.0

# The interval while a caller waits for the service to be ready.
FAST_INTERVAL_S = 0.2
HISTORY_SIZE = 720

# Samples that a slow caller of `samples()` may have pending. It loses the oldest beyond that.
QUEUE_SIZE = 1_000
SECONDS_PER_DAY = 86_400


class HealthMonitor:
    """Checks a service at an interval, stores the results and reports changes of its state.

        async with HealthMonitor(client, interval=1, models=["phi-4-mini"]) as monitor:
            await monitor.wait_until_ready(timeout=60)
            monitor.on_change(lambda change: print(change.new, change.reason))
            ...
        print(monitor.summary().availability)

    A check requests the service's status route, which answers while the engine generates. It uses
    no slot of the limiter and ignores an open circuit breaker, so it neither delays callers nor
    waits for them. If the service is gone, it is found or started again, as for a call.

    Args:
        client: The client whose service is checked; the first one of several.
        interval: Seconds between the starts of two checks, above 0; default 5.
        timeout: Seconds within which the service has to answer a check, at most the interval;
            default 2, or the interval if that is shorter.
        models: Models that must be in memory for the service to be ready.
        canary_every: Number of checks from one canary to the next, a completion of a few tokens;
            default 0, for none. No canary is made while callers receive answers or use every slot
            of the limiter. It calls one of `models` if any is in memory, else any other model.
        canary_timeout: Seconds within which a canary has to be answered; default 30.
        hysteresis: How many checks it takes to change the state; default `Hysteresis()`.
        history: Number of samples to keep in memory, default 720; or the path of a SQLite file to
            store samples in as well while the monitor runs.
        keep_days: Age in days at which samples are deleted from the file; default 7.
        alerts: Called with every `HealthChanged`: functions, coroutine functions, `AlertWebhook`,
            `AlertCommand`.

    Raises:
        InvalidRequest: An argument is invalid.
    """

    def __init__(
        self,
        client: MonitorTarget,
        *,
        interval: float = 5.0,
        timeout: float | None = None,
        models: Sequence[str] = (),
        canary_every: int = 0,
        canary_timeout: float = 30.0,
        hysteresis: Hysteresis | None = None,
        history: int | Path | str = HISTORY_SIZE,
        keep_days: float = 7.0,
        alerts: Iterable[Callable[[HealthChanged], object]] = (),
    ) -> None:
        interval = _check_seconds("interval", interval)
        timeout = min(PROBE_TIMEOUT_S, interval) if timeout is None else timeout
        timeout = _check_seconds("timeout", timeout, at_most=interval)
        canary_timeout = _check_seconds("canary_timeout", canary_timeout)
        keep_days = _check_seconds("keep_days", keep_days)
        canary_checks = as_int(canary_every)
        if canary_checks is None or canary_checks < 0:
            raise InvalidRequest(
                f"canary_every is {format_value(canary_every)}, but must be a whole number, 0 or "
                "more",
                field="canary_every",
            )
        size, path = _parse_history(history)
        model_names = check_several("models", models, "a list of names")
        names = [check_name(f"models[{index}]", name) for index, name in enumerate(model_names)]
        if hysteresis is not None and not isinstance(cast("object", hysteresis), Hysteresis):
            raise InvalidRequest(
                f"hysteresis is {format_value(hysteresis)}, not a Hysteresis", field="hysteresis"
            )
        listeners = tuple(check_several("alerts", alerts))
        for index, alert in enumerate(listeners):
            if not callable(alert):
                field = f"alerts[{index}]"
                raise InvalidRequest(
                    f"{field} is {format_value(alert)}, which can't be called", field=field
                )
        self._client = client
        self._interval_s = interval
        self._traffic = TrafficCounter(self._is_other_service)
        self._sampler = Sampler(
            client,
            self._traffic,
            interval_s=interval,
            timeout_s=timeout,
            models=names,
            canary_every=canary_checks,
            canary_timeout_s=canary_timeout,
            hysteresis=hysteresis or Hysteresis(),
        )
        self._path = path
        self._keep_s = keep_days * SECONDS_PER_DAY
        self._history: deque[HealthSample] = deque(maxlen=size)
        self._notifier = Notifier(*listeners)
        self._queues: set[asyncio.Queue[HealthSample | None]] = set()
        self._users = 0
        self._waiting = 0
        self._closed = False
        self._wake = asyncio.Event()
        self._loop_lock: tuple[asyncio.AbstractEventLoop | None, asyncio.Lock] = (
            None,
            asyncio.Lock(),
        )
        self._background = AsyncExitStack()
        self._store: StoreWriter | None = None

    @property
    def status(self) -> HealthSample | None:
        """The newest sample; None before the first check."""
        return self._history[-1] if self._history else None

    @property
    def state(self) -> HealthState:
        """The state, which changes only after several checks that agree."""
        return self._sampler.state

    @property
    def history(self) -> tuple[HealthSample, ...]:
        """The samples in memory, oldest first."""
        return tuple(self._history)

    def summary(self) -> HealthSummary:
        """Summarise the samples in memory."""
        return summarise(self._history)

    def on_change(self, callback: Callable[[HealthChanged], object]) -> Callable[[], None]:
        """Call `callback` with every change of the state.

        Args:
            callback: A function, which must not block, or a coroutine function. Its failures are
                logged.

        Returns:
            A function that unsubscribes `callback`.
        """
        return self._notifier.add(callback)

    async def check(self) -> HealthSample:
        """Check the service once, with a canary if one is due, and store the sample.

        Raises:
            ClientClosed: The client is closed.
        """
        return await self._take_sample(wait_for_canary=True)

    async def samples(self) -> AsyncGenerator[HealthSample]:
        """Yield every sample from now on. The monitor runs while the caller iterates.

        Raises:
            ConfigurationError: The history file cannot be used.
            ClientClosed: The client was closed.
        """
        async with self:
            queue: asyncio.Queue[HealthSample | None] = asyncio.Queue()
            self._queues.add(queue)
            try:
                while not self._closed and (sample := await queue.get()) is not None:
                    yield sample
            finally:
                self._queues.discard(queue)
            raise ClientClosed("the client was closed, so its service is no longer monitored")

    async def wait_until_ready(self, timeout: float = 30.0) -> HealthSample:  # noqa: ASYNC109 - the public name
        """Wait until the service answers, has the required models in memory and passed its canary.

        The monitor runs while this waits, with a shorter interval.

        Args:
            timeout: Seconds to wait, default 30. With 0 or less, it raises CallTimeout at once.

        Returns:
            The sample with which the service was ready.

        Raises:
            CallTimeout: The service was not ready in time; the message has its last status.
            ConfigurationError: The history file cannot be used.
            ClientClosed: The client was closed.
            InvalidRequest: `timeout` is not a number.
        """
        limit_s = as_float(timeout)
        if limit_s is None or math.isnan(limit_s):
            raise InvalidRequest(
                f"timeout is {format_value(timeout)}, not a number of seconds", field="timeout"
            )
        if limit_s <= 0:
            raise self._make_timeout_error(limit_s)
        scope = asyncio.timeout(limit_s)
        self._waiting += 1
        self._wake.set()
        try:
            async with scope, aclosing(self.samples()) as samples:
                while not (sample := await anext(samples)).ready:
                    pass
        except TimeoutError as error:
            if not scope.expired():  # raised by the caller's own code
                raise
            raise self._make_timeout_error(limit_s) from error
        finally:
            self._waiting -= 1
        return sample

    async def __aenter__(self) -> Self:
        """Start the checks in the background.

        Raises:
            ConfigurationError: The history file cannot be used.
        """
        async with self._get_lock():
            if not self._users:
                self._background = await self._start()
            self._users += 1
        return self

    async def __aexit__(self, *failure: object) -> None:
        async with self._get_lock():
            self._users -= 1
            if not self._users:
                await self._background.aclose()

    def _get_lock(self) -> asyncio.Lock:
        # Serialises starts and stops. A lock belongs to one event loop, but a monitor may be used
        # on one loop after another, such as by several `asyncio.run`.
        loop = asyncio.get_running_loop()
        if self._loop_lock[0] is not loop:
            self._loop_lock = loop, asyncio.Lock()
        return self._loop_lock[1]

    async def _start(self) -> AsyncExitStack:
        """Start the work in the background; closing the returned stack stops it."""
        async with AsyncExitStack() as stack:
            self._closed, self._wake = False, asyncio.Event()
            # Stopped in the reverse order, so that the last samples and alerts are still handled.
            if self._path is not None:
                await self._open_store(self._path, stack)
            stack.push_async_callback(self._notifier.aclose)
            stack.push_async_callback(self._sampler.aclose)
            stack.callback(self._client.events.subscribe(self._traffic, FirstToken, CallEnded))
            # An empty context: a deadline around the code that starts the monitor must not apply.
            task = asyncio.create_task(self._run(), context=contextvars.Context())
            stack.push_async_callback(asyncio.wait, {task})
            stack.callback(task.cancel)
            return stack.pop_all()

    async def _open_store(self, path: Path, stack: AsyncExitStack) -> None:
        # SQLite is imported only if a file is used.
        from foundry_api.monitor.store import StoreWriter  # noqa: PLC0415

        store = StoreWriter(path, keep_s=self._keep_s)

        async def close() -> None:
            self._store = None
            await asyncio.wrap_future(store.close())

        stack.push_async_callback(close)
        await asyncio.wrap_future(store.open())
        self._store = store

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        code = UserCode()
        while True:
            try:
                await self._take_sample(wait_for_canary=False)
            except ClientClosed:
                self._closed = True
                self._publish(None)
                return
            except BaseException as error:
                if not code.is_own_failure(error):
                    raise
                # If the monitor ended here, its users would believe that the service is healthy.
                log.exception("a health check failed")
            started_at = await self._wait_next(started_at)

    async def _wait_next(self, started_at: float) -> float:
        """Wait for the time of the next check and return it."""
        loop = asyncio.get_running_loop()
        while True:
            # A caller of wait_until_ready() shortens the interval, and wakes this wait.
            step_s = min(FAST_INTERVAL_S, self._interval_s) if self._waiting else self._interval_s
            due_at = max(started_at + step_s, loop.time())
            self._wake.clear()
            try:
                async with asyncio.timeout_at(due_at):
                    await self._wake.wait()
            except TimeoutError:
                return due_at

    async def _take_sample(self, *, wait_for_canary: bool) -> HealthSample:
        sample, transition = await self._sampler.sample(wait_for_canary=wait_for_canary)
        self._history.append(sample)
        if self._store is not None:
            self._store.add(sample)
        self._publish(sample)
        if transition is not None:
            recovered = "" if transition.old == "unknown" else "it answers again"
            self._notifier.notify(
                HealthChanged(
                    old=transition.old,
                    new=transition.new,
                    since=transition.since,
                    at=sample.checked_at,
                    reason=sample.detail or recovered,
                    sample=sample,
                )
            )
        return sample

    def _publish(self, sample: HealthSample | None) -> None:
        for queue in self._queues:
            if queue.qsize() >= QUEUE_SIZE:
                queue.get_nowait()
            queue.put_nowait(sample)

    def _make_timeout_error(self, timeout_s: float) -> CallTimeout:
        last = self.status
        status = "it is still being found or started"
        if last is not None:
            status = f"it was {last.status} at the last check"
            if last.canary is not None and last.canary.outcome == "skipped":
                status += f", and no canary was made, because {last.canary.detail}"
        return CallTimeout(
            f"the service was not ready within {timeout_s:g} s: {status}",
            limit_s=timeout_s,
            stage="waiting for the service to be ready",
            hint=last.detail if last else "",
            service=last.service if last else None,
        )

    def _is_other_service(self, service: str | None) -> bool:
        return service in {candidate.name for candidate in self._client.services[1:]}


def _check_seconds(name: str, value: object, *, at_most: float = float("inf")) -> float:
    seconds = as_float(value)
    if seconds is None or not 0 < seconds <= at_most:
        bound = "" if at_most == float("inf") else f" and at most the interval, {at_most:g}"
        raise InvalidRequest(
            f"{name} is {format_value(value)}, but must be above 0{bound}", field=name
        )
    return seconds


def _parse_history(history: object) -> tuple[int, Path | None]:
    """Return how many samples to keep in memory, and the history file, if any."""
    if (path := as_path(history)) is not None:
        return HISTORY_SIZE, Path(path)
    size = as_int(history)
    if size is None or size < 1:
        raise InvalidRequest(
            f"history is {format_value(history)}, neither a number of samples above 0 nor a path",
            field="history",
        )
    return size, None
