"""`HealthMonitor`: a service's health, sampled at an interval."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from foundry_api.errors import InvalidRequest
from foundry_api.health import HealthStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
    from typing import Any, Protocol

    class Checked(Protocol):
        """Whatever can tell its health, such as a client."""

        def health_check(self) -> Coroutine[Any, Any, HealthStatus]:
            """Look once."""
            ...


__all__ = ["HealthMonitor", "HealthStatus"]


class HealthMonitor:
    """Looks at a service again and again, and remembers what it saw.

    Args:
        client: Whose service to look at.
        interval: Seconds between the starts of two looks, above 0; default 5.
        history: How many looks to remember; default 720, an hour of them.
        sleep: Waits for a number of seconds.

    Raises:
        InvalidRequest: The interval is not above 0.
    """

    def __init__(
        self,
        client: Checked,
        *,
        interval: float = 5.0,
        history: int = 720,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not interval > 0:
            raise InvalidRequest(f"interval is {interval}, but must be above 0", field="interval")
        self._client = client
        self._interval_s = interval
        self._sleep = sleep
        self._history: deque[HealthStatus] = deque(maxlen=history)

    @property
    def history(self) -> tuple[HealthStatus, ...]:
        """What was seen, oldest first."""
        return tuple(self._history)

    async def check(self) -> HealthStatus:
        """Look once, and remember it."""
        status = await self._client.health_check()
        self._history.append(status)
        return status

    async def samples(self) -> AsyncGenerator[HealthStatus]:
        """Look at the interval, for as long as the caller iterates."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            yield await self.check()
            await self._sleep(max(0.0, started + self._interval_s - loop.time()))
