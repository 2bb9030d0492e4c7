"""Waits for conditions that become true soon, but not at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry_api import FoundryAPIClient


async def wait_until_idle(client: FoundryAPIClient) -> None:
    """Wait until no call has a slot. An engine reads a prompt to its end, also for nobody."""
    async with asyncio.timeout(30):
        while client.limiter.load:  # noqa: ASYNC110 - the limiter has no event for it
            await asyncio.sleep(0.01)
