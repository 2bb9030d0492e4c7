"""A pump for a client's services."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from foundry_api.batch.allowance import Allowance, wanted_of
from foundry_api.batch.outage import Outage
from foundry_api.batch.pump import Pump
from foundry_api.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from foundry_api.batch.sharing import Kept
    from foundry_api.client import FoundryAPIClient

__all__ = ["Conditions", "pump_of"]

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a line has failed for good, and when the services are gone for good.

    Attributes:
        attempts: How often a line that failed for a passing reason is begun.
        patience_s: Seconds that all services may be away.
        clock: Seconds of a monotonic clock.
        sleep: Waits for so many seconds.
    """

    attempts: int = 3
    patience_s: float = 600.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def pump_of(
    client: FoundryAPIClient,
    conditions: Conditions,
    *,
    kept: Kept[_R] | None = None,
    ordered: bool = False,
) -> Pump[_R]:
    """A pump that keeps a client's services busy.

    Args:
        client: Makes the calls.
        conditions: When to give up.
        kept: Where answers are kept for identical lines.
        ordered: Whether the results keep the order of the lines.
    """
    return Pump(
        Allowance(lambda: wanted_of(client.services)),
        Outage(conditions.patience_s, conditions.clock),
        attempts=conditions.attempts,
        reachable=lambda: _reachable(client),
        kept=kept,
        ordered=ordered,
        sleep=conditions.sleep,
    )


async def _reachable(client: FoundryAPIClient) -> bool:
    """Whether one of the services tells its status."""
    for service in client.services:
        try:
            await service.probe()
        except FoundryError:
            continue
        return True
    return False
