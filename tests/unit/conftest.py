"""What the unit tests share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.virtual_time import Run


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a coroutine without spending the time that it waits."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        yield runner.run
