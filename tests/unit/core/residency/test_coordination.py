"""Coordination of clients through the usage file, and clients that cannot use it."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.residency.coordination import (
    NoCoordination,
    UsageRegistry,
    get_program_name,
    get_service_name,
)
from foundry_api.types.errors import ModelInUse
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URL = "http://127.0.0.1:5273"
MANY = 7
DEMO = Model(id="demo:1", alias="demo", catalog="local", cached=True)


class Clients:
    """Clients of one home. Their waits are recorded and take no time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waits: list[float] = []
        self.waited_long = asyncio.Event()
        self.homes: list[UsageRegistry] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) >= MANY:
            self.waited_long.set()
        await asyncio.sleep(0)

    def one(self) -> UsageRegistry:
        home = UsageRegistry(self.path, 60.0, self.sleep)
        self.homes.append(home)
        return home


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[Clients]:
    clients = Clients(tmp_path / "uses.db")
    yield clients
    for home in clients.homes:
        await home.aclose()


async def test_closed_client_uses_nothing(clients: Clients) -> None:
    home, other = clients.one(), clients.one().for_service(URL)
    await home.for_service(URL).claim("demo:1")
    (user,) = await other.list_users("demo:1")
    assert user.program == get_program_name(sys.argv)
    await home.aclose()
    assert await other.list_users("demo:1") == ()


async def test_all_spellings_of_loopback_are_one_service(clients: Clients) -> None:
    await clients.one().for_service("http://localhost:5273").claim("demo:1")
    assert await clients.one().for_service("http://127.0.0.1:5273/").list_users("demo:1")
    assert not await clients.one().for_service("http://127.0.0.1:5274").list_users("demo:1")
    assert get_service_name("https://models.example/foundry") == "https://models.example/foundry"
    assert get_service_name("http://[::1]:1/x") == "127.0.0.1:1/x"


async def test_claim_waits_for_an_unload_with_growing_pauses(
    clients: Clients,
) -> None:
    a, b = clients.one().for_service(URL), clients.one().for_service(URL)
    async with a.lease("demo:1", "unload", for_s=60, quiet_s=0):
        claiming = asyncio.create_task(b.claim("demo:1"))
        await clients.waited_long.wait()
        assert not claiming.done()
    await claiming
    assert clients.waits[:MANY] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]


async def test_two_clients_change_a_model_one_after_the_other(clients: Clients) -> None:
    order: list[str] = []

    async def change(name: str) -> None:
        async with clients.one().for_service(URL).lease("demo:1", "load", for_s=60):
            order.append(name)
            await asyncio.sleep(0.01)
            order.append(name)

    await asyncio.gather(*map(change, "abc"))
    assert order[::2] == order[1::2]


async def test_model_in_use_is_not_leased_and_the_attempt_leaves_no_trace(
    clients: Clients,
) -> None:
    a, b = clients.one().for_service(URL), clients.one().for_service(URL)
    await a.claim("demo:1")
    with pytest.raises(ModelInUse, match=r"demo:1 is used by .+ \(pid \d+\), last 0 s ago"):
        async with b.lease("demo:1", "unload", for_s=60, quiet_s=0):
            pytest.fail("it was granted")
    async with a.lease("demo:1", "unload", for_s=60, quiet_s=0):
        pass


async def test_cancelled_lease_request_leaves_no_lease(clients: Clients) -> None:
    a, b = clients.one().for_service(URL), clients.one().for_service(URL)
    await a.list_users("demo:1")
    for turns in range(4):
        asking = asyncio.create_task(a.lease("demo:1", "unload", for_s=60).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5), b.lease("demo:1", "load", for_s=60):
            pass


async def test_renew_returns_models_that_may_be_unloaded(clients: Clients) -> None:
    a, b = clients.one().for_service(URL), clients.one().for_service(URL)
    await a.claim("demo:1")
    assert await a.renew({"demo:1": 1.0}) == set()
    await b.record_unloaded("demo:1")
    assert await a.renew({"demo:1": 1.0}) == {"demo:1"}


async def test_models_loaded_by_clients_of_the_home_are_known(clients: Clients) -> None:
    await clients.one().for_service(URL).record_loaded(DEMO)
    known = await clients.one().for_service(URL).list_known_models()
    assert known
    assert known["demo:1"].model.alias == "demo"


async def test_without_the_file_a_client_works_alone_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    home = UsageRegistry(tmp_path / "state" / "uses.db", 60.0)
    others = home.for_service(URL)
    await others.claim("demo:1")
    await others.record_loaded(DEMO)
    await others.record_unloaded("demo:1")
    async with others.lease("demo:1", "unload", for_s=60, quiet_s=0):
        pass
    assert await others.list_users("demo:1") == ()
    assert await others.list_known_models() == {}
    assert await others.renew({"demo:1": 1.0}) == set()
    await home.aclose()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        f"loading and unloading is not coordinated with other programs: {warnings[0].args[0]}"  # type: ignore[index]
    ]


async def test_service_without_other_clients_needs_no_file() -> None:
    nobody = NoCoordination()
    await nobody.claim("demo:1")
    await nobody.record_loaded(DEMO)
    await nobody.record_unloaded("demo:1")
    async with nobody.lease("demo:1", "unload", for_s=60, quiet_s=0):
        assert await nobody.list_users("demo:1") == ()
    assert await nobody.renew({"demo:1": 1.0}) == ()
    assert await nobody.list_known_models() is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["/home/u/assistant.py", "--fast"], "assistant.py"),
        (["assistant"], "assistant"),
        (["/site-packages/foundry_api/__main__.py", "chat"], "foundry_api"),
        (["-c"], Path(sys.executable).name),
        ([""], Path(sys.executable).name),
        ([], Path(sys.executable).name),
        (["x" * 500], "x" * 80),
    ],
)
def test_program_name_is_readable(arguments: list[str], name: str) -> None:
    assert get_program_name(arguments) == name
