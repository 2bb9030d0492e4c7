"""Batches over a real Ray of this machine, with a real engine."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from foundry_api import errors
from foundry_api.batch.lines import BatchRequest, Line, Work
from foundry_api.batch.ray_engine import RayEngine
from foundry_api.settings import Settings
from service.helpers import eventually, hosts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


pytest.importorskip("ray", reason="Ray has no build for this platform")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

LINES = 60


async def works(count: int = LINES) -> AsyncIterator[Work]:
    for index in range(count):
        body: dict[str, Any] = {
            "model": "demo",
            "messages": [{"role": "user", "content": f"What is {index} plus {index}?"}],
            "max_tokens": 24,
            "temperature": 0,
        }
        yield Work(
            Line(index, index + 1, 7 * index, b"raw"),
            BatchRequest(custom_id=f"line-{index}", body=body),
        )


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home, model="demo", service="embedded")


async def test_without_a_cluster_it_is_this_machine_and_nothing_is_left(
    settings: Settings, home: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    engine = RayEngine(settings=settings)
    async with aclosing(engine.answers(works(100_000))) as finished:
        await anext(finished)
        assert len(hosts_of(home)) == 1
    eventually(lambda: not hosts_of(home))
    eventually(lambda: not set(psutil.Process().children(recursive=True)) - before)


async def test_a_cluster_that_is_not_there_is_named(settings: Settings) -> None:
    engine = RayEngine(address="127.0.0.1:1", settings=settings)
    with pytest.raises(errors.BatchError, match=r"127\.0\.0\.1:1 cannot be joined"):
        await anext(engine.answers(works()))
