"""The events of the page: what they have, who sees what, and when they end."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import jsonschema
import pytest

from foundry_api.gateway.dashboard import live
from foundry_api.gateway.failures import Failure, RecentFailures
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.gateway.routes import ROUTES
from foundry_api.testing import FakeService
from gateway.serving import CHAT, call, make_body, serve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

ADMIN = NewKey(name="admin", scopes=frozenset({"manage", "inference"}))
CALLER = NewKey(name="caller")
METRICS = NewKey(name="grafana", scopes=frozenset({"metrics"}))


class Events:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def read(self) -> Any:
        """Return the next event; None at the end of the stream."""
        async with asyncio.timeout(30):
            try:
                block = await self._response.content.readuntil(b"\n\n")
            except asyncio.IncompleteReadError:
                return None
        return json.loads(block.removeprefix(b"data: ")) if block else None


@asynccontextmanager
async def open_events(
    http: aiohttp.ClientSession, headers: dict[str, str] | None = None
) -> AsyncGenerator[Events]:
    async with http.get("/api/live", headers=headers) as response:
        assert response.status == 200
        yield Events(response)


def check(event: Any) -> None:
    """Fail unless an event has the form that the description of the API gives."""
    document = ROUTES[-1].handler.__self__.document  # type: ignore[attr-defined]
    schemas = document["components"]["schemas"]
    schema = {**schemas["LiveEvent"], "additionalProperties": False}
    validator = jsonschema.Draft202012Validator({**schema, "components": {"schemas": schemas}})
    assert [error.message for error in validator.iter_errors(event)] == []


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "INTERVAL_S", 0.02)


async def test_a_running_call_is_shown_and_stopped(tmp_path: Path, engine: Endpoint) -> None:
    async with serve(tmp_path, engine.base_url, ADMIN, CALLER) as served:
        caller = served.open_session(1)
        async with (
            open_events(served.http) as events,
            caller.post(CHAT, json=make_body("say-slowly", stream=True)) as response,
        ):
            await response.content.readuntil(b"\n\n")
            while not (event := await events.read())["calls"]:
                pass
            [shown] = event["calls"]
            assert (shown["key"], shown["model"], shown["route"]) == ("caller", "scripted", CHAT)
            assert shown["state"] == "running"
            assert shown["id"] == response.headers["x-request-id"]
            assert event["keys"][0] == {
                "key": "caller",
                "running": 1,
                "waiting": 0,
                "estimated_wait_s": event["keys"][0]["estimated_wait_s"],
            }
            assert "tock" not in str(event)
            check(event)
            # Only who may manage.
            assert (await stop(caller, shown["id"]))[0] == 403
            assert await stop(served.http, shown["id"]) == (200, "stopped")
            rest = await response.text()
            assert '"code":"call_stopped"' in rest
            while (event := await events.read())["calls"]:
                pass
            assert (event["call_count"], event["in_flight"]) == (0, 0)
        assert (await stop(served.http, shown["id"]))[0] == 404


async def stop(http: aiohttp.ClientSession, identifier: str) -> tuple[int, str]:
    async with http.post(f"/api/calls/{identifier}/stop", json={}) as response:
        return response.status, (await response.json()).get("status", "")


async def test_a_key_sees_its_own_calls_only(tmp_path: Path, engine: Endpoint) -> None:
    async with serve(tmp_path, engine.base_url, ADMIN, CALLER, METRICS) as served:
        caller, metrics = served.open_session(1), served.open_session(2)
        async with (
            served.http.post(CHAT, json=make_body("say-slowly", stream=True)) as response,
            open_events(served.http) as admin_events,
            open_events(caller) as caller_events,
            open_events(metrics) as metrics_events,
        ):
            await response.content.readuntil(b"\n\n")
            event = await admin_events.read()
            assert [one["key"] for one in event["calls"]] == ["admin"]
            assert event["revisions"]
            check(event)
            event = await caller_events.read()
            check(event)
            assert (event["calls"], event["call_count"], event["keys"]) == ([], 0, [])
            assert event.keys() == {
                *("tick", "time", "version", "ready"),
                *("calls", "call_count", "keys"),
            }
            event = await metrics_events.read()
            assert event["in_flight"] == 1
            assert event["calls"] == []
            assert "problems" not in event
        for session, status in ((caller, 403), (metrics, 200)):
            async with session.get("/api/history") as response:
                assert response.status == status


async def test_pages_share_one_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = 0
    describe = live.describe_status

    def count(context: Any) -> dict[str, Any]:
        nonlocal described
        described += 1
        return describe(context)

    async with FakeService() as upstream, serve(tmp_path, upstream.base_url) as served:
        monkeypatch.setattr(live, "describe_status", count)
        # Without a page nothing is described.
        feed = served.gateway.context.live
        assert isinstance(feed, live.LiveFeed)
        tick = feed._tick
        await served.wait_until(lambda: feed._tick > tick + 3)
        assert described == 0
        pages = [feed.subscribe() for _ in range(20)]
        for page in pages:
            await anext(page)  # the present state
        described = 0
        snapshots = await asyncio.gather(*(anext(page) for page in pages))
        assert len(set(map(id, snapshots))) == 1
        assert len({snapshot.encode(None) for snapshot in snapshots}) == 1
        assert described == 1
        for page in pages:
            await page.aclose()


async def test_the_history_counts_calls_and_failures(tmp_path: Path, engine: Endpoint) -> None:
    async with serve(tmp_path, engine.base_url) as served:
        history = served.gateway.context.metrics.history
        assert (await call(served.http, make_body("say-hello", stream=True)))[0] == 200
        assert (await call(served.http, make_body("say-hello", n=9)))[0] == 400
        await served.wait_until(lambda: any(one.errors for one in history.get_points()["15m"]))
        async with served.http.get("/api/history?window=15m") as response:
            window = await response.json()
        assert (window["window"], window["step_s"]) == ("15m", 1)
        # A call and its refusal may be in different seconds.
        columns = list(zip(*window["points"], strict=True))
        assert sum(columns[1]) > sum(columns[2]) > 0
        assert sum(columns[3]) > 0
        [p50] = [seconds for seconds in columns[4] if seconds is not None]
        [p95] = [seconds for seconds in columns[5] if seconds is not None]
        assert 0 < p50 <= p95
        async with served.http.get("/api/history?window=1y") as response:
            assert response.status == 400


async def test_the_cause_of_a_refused_call_is_found(tmp_path: Path) -> None:
    limited = NewKey(name="limited", rate=Limit(1, "h"))
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, ADMIN, limited) as served,
    ):
        session = served.open_session(1)
        assert (await call(session, make_body("hello", "fake")))[0] == 200
        async with session.post(CHAT, json=make_body("hello", "fake")) as response:
            assert response.status == 429
            identifier = response.headers["x-request-id"]
        # What everybody can cause pushes nothing out.
        headers = {"Authorization": "Bearer fk_wrong"}
        assert (await call(session, make_body("hello", "fake"), headers))[0] == 401
        async with served.http.get("/api/failures") as response:
            [failure] = (await response.json())["failures"]
        assert failure.pop("time") == pytest.approx(time.time(), abs=60)
        assert failure == {
            "id": identifier,
            "key": "limited",
            "model": "fake",
            "route": CHAT,
            "code": "rate_limit_exceeded",
            "meaning": "The key has reached a limit: of requests, tokens or parallel calls.",
        }
        async with session.get("/api/failures") as response:
            assert response.status == 403


def test_failures_are_bounded() -> None:
    failures = RecentFailures()
    for number in range(1000):
        for code in ("queue_full", "invalid_api_key"):
            failures.add(Failure(at=0, id=str(number), key="k", model="m", route=CHAT, code=code))
    assert (failures.count, len(failures.list()), failures.list()[0].id) == (1000, 100, "999")


async def test_the_stream_ends_with_its_session(tmp_path: Path) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, ADMIN) as served,
        aiohttp.ClientSession(served.gateway.url, cookie_jar=jar) as browser,
    ):
        origin = {"Origin": served.gateway.url}
        headers = {"Authorization": f"Bearer {served.tokens[0]}", **origin}
        async with browser.post("/api/session", headers=headers) as response:
            assert response.status == 200
        async with open_events(browser) as events:
            assert await events.read()
            async with browser.delete("/api/session", headers=origin) as response:
                assert response.status == 200
            while await events.read():
                pass


async def test_the_stream_ends_when_the_first_key_closes_the_gateway(tmp_path: Path) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url) as served,
        open_events(served.http) as events,
    ):
        assert await events.read()
        await asyncio.to_thread(KeyDatabase(tmp_path).create, ADMIN)
        await served.gateway.context.keyring.reload()
        while await events.read():
            pass


async def test_a_gateway_that_stops_does_not_wait_for_pages(tmp_path: Path) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url) as served,
        open_events(served.http) as events,
    ):
        assert await events.read()
        await served.gateway.drain(30)
        while await events.read():
            pass


async def test_revisions_change_with_keys_and_the_log(tmp_path: Path) -> None:
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url, ADMIN) as served:
        async with open_events(served.http) as events:
            before = (await events.read())["revisions"]
            body = {"name": "ci"}
            async with served.http.post("/api/keys", json=body) as response:
                assert response.status == 200
            while (event := await events.read())["revisions"]["log"] == before["log"]:
                pass
            assert event["revisions"]["keys"] > before["keys"]
        async with served.http.get("/api/log") as response:
            log = await response.json()
        assert log["is_recorded"]
        newest = log["events"][0]
        assert (newest["event"], newest["key"]) == ("key.create", "admin")
        assert newest["target"].startswith("ci (")
