"""Signing in to the page: cookies, where they count, and when they end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from foundry_api.gateway import sessions
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from foundry_api.testing import FakeService
from gateway.keys.helpers import FakeClock
from gateway.serving import serve
from gateway.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.serving import ServedGateway

ADMIN = NewKey(name="admin", scopes=frozenset({"manage", "inference"}))
CALLER = NewKey(name="caller")
SESSION = "/api/session"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedGateway]:
    """A gateway with two keys."""
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, ADMIN, CALLER) as served,
    ):
        yield served


@pytest.fixture
async def browser(served: ServedGateway) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that sends cookies and no key, as a browser does."""
    jar = aiohttp.CookieJar(unsafe=True)  # also for addresses
    async with aiohttp.ClientSession(served.gateway.url, cookie_jar=jar) as session:
        yield session


def own(served: ServedGateway) -> dict[str, str]:
    return {"Origin": served.gateway.url}


async def sign_in(browser: aiohttp.ClientSession, token: str, origin: str) -> Any:
    headers = {"Authorization": f"Bearer {token}", "Origin": origin}
    async with browser.post(SESSION, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def get_status(
    browser: aiohttp.ClientSession, method: str, path: str, headers: dict[str, str] | None = None
) -> int:
    async with browser.request(method, path, headers=headers, json={}) as response:
        return response.status


async def test_a_browser_signs_in_and_out(
    served: ServedGateway, browser: aiohttp.ClientSession
) -> None:
    async with browser.get(SESSION) as response:
        before = await response.json()
    assert (before["requires_key"], before["key"], before["scopes"]) == (True, None, [])
    state = await sign_in(browser, served.tokens[0], served.gateway.url)
    assert (state["key"]["name"], state["scopes"]) == ("admin", ["inference", "manage"])
    assert await get_status(browser, "GET", "/api/status") == 200
    async with browser.get(SESSION) as response:
        assert (await response.json())["key"]["name"] == "admin"
    assert await get_status(browser, "DELETE", SESSION, own(served)) == 200
    assert await get_status(browser, "GET", "/api/status") == 401
    assert len(served.gateway.context.sessions) == 0


async def test_the_cookie_is_kept_from_scripts_and_other_sites(
    served: ServedGateway, browser: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": f"Bearer {served.tokens[0]}"}
    async with browser.post(SESSION, headers=headers) as response:
        cookie = response.headers["Set-Cookie"]
    name, _, rest = cookie.partition("=")
    assert name == f"foundry-session-{browser._base_url.port}"  # type: ignore[union-attr]
    value, *attributes = rest.split("; ")
    assert len(value) >= 43
    assert value not in served.tokens
    assert attributes == ["Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"]


async def test_the_cookie_is_secure_under_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    config = {"tls_cert": certificate, "tls_key": key}
    async with (
        FakeService() as upstream,
        serve(tmp_path / "gateway", upstream.base_url, ADMIN, config=config) as served,
        served.http.post(SESSION, ssl=False) as response,
    ):
        assert response.headers["Set-Cookie"].endswith("; SameSite=Strict; Secure")


@pytest.mark.parametrize("name", ["https://evil.example", "null", None])
async def test_only_our_page_changes_something_by_cookie(
    served: ServedGateway, browser: aiohttp.ClientSession, name: str | None
) -> None:
    await sign_in(browser, served.tokens[0], served.gateway.url)
    headers = {} if name is None else {"Origin": name}
    for method, path in (("POST", "/api/reload"), ("DELETE", SESSION)):
        assert await get_status(browser, method, path, headers) == 403
    assert await get_status(browser, "POST", "/api/reload", own(served)) == 200


async def test_behind_a_proxy_with_tls_its_address_counts(tmp_path: Path) -> None:
    config = {"hosts": ("ai.example",), "origins": ("https://ai.example", "https://app.example")}
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, ADMIN, config=config) as served,
        aiohttp.ClientSession(served.gateway.url) as browser,
    ):
        headers = {"Host": "ai.example", "Origin": "https://ai.example"}
        token = {"Authorization": f"Bearer {served.tokens[0]}"}
        async with browser.post(SESSION, headers={**headers, **token}) as response:
            cookie = response.headers["Set-Cookie"]
        assert cookie.endswith("; Secure")
        headers["Cookie"] = cookie.partition(";")[0]
        assert await get_status(browser, "POST", "/api/reload", headers) == 200
        # A page that may call the gateway with a key may not use the sessions of ours.
        headers["Origin"] = "https://app.example"
        assert await get_status(browser, "POST", "/api/reload", headers) == 403


async def test_a_session_has_the_scopes_of_its_key(
    served: ServedGateway, browser: aiohttp.ClientSession
) -> None:
    await sign_in(browser, served.tokens[1], served.gateway.url)
    assert await get_status(browser, "GET", "/v1/models") == 200
    assert await get_status(browser, "GET", "/api/status") == 403


async def test_a_key_in_a_header_overrides_the_cookie(
    served: ServedGateway, browser: aiohttp.ClientSession
) -> None:
    await sign_in(browser, served.tokens[0], served.gateway.url)
    for token, status in ((served.tokens[1], 403), ("fk_wrong", 401)):
        headers = {"Authorization": f"Bearer {token}"}
        assert await get_status(browser, "GET", "/api/status", headers) == status
    headers = {"Authorization": f"Bearer {served.tokens[0]}", "x-api-key": "another"}
    assert await get_status(browser, "GET", "/api/status", headers) == 401


@pytest.mark.parametrize("end", ["revoke", "remove", "rotate"])
async def test_a_session_ends_with_its_key(
    tmp_path: Path, served: ServedGateway, browser: aiohttp.ClientSession, end: str
) -> None:
    await sign_in(browser, served.tokens[0], served.gateway.url)
    database = KeyDatabase(tmp_path)
    options = {"grace_s": 0.0} if end == "rotate" else {}
    await asyncio.to_thread(getattr(database, end), "admin", **options)
    await served.gateway.context.keyring.reload()
    assert await get_status(browser, "GET", "/api/status") == 401
    async with browser.get(SESSION) as response:
        assert (await response.json())["key"] is None


async def test_a_session_ends_after_twelve_hours(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, ADMIN, monotonic=clock) as served,
    ):
        context = served.gateway.context
        secret = context.sessions.create(served.tokens[0])
        headers = {"Cookie": f"foundry-session-{served.http._base_url.port}={secret}"}  # type: ignore[union-attr]
        async with aiohttp.ClientSession(served.gateway.url) as browser:
            clock.now += sessions.LIFETIME_S - 1
            assert await get_status(browser, "GET", "/api/status", headers) == 200
            clock.now += 1
            assert await get_status(browser, "GET", "/api/status", headers) == 401
        assert len(context.sessions) == 0


async def test_a_page_whose_session_has_ended_locks_nobody_out(
    served: ServedGateway, browser: aiohttp.ClientSession
) -> None:
    await sign_in(browser, served.tokens[0], served.gateway.url)
    served.gateway.context.sessions._sessions.clear()
    assert {await get_status(browser, "GET", "/api/status") for _ in range(30)} == {401}
    await sign_in(browser, served.tokens[0], served.gateway.url)


async def test_wrong_keys_are_counted_when_signing_in(
    served: ServedGateway, browser: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": "Bearer fk_wrong", **own(served)}
    statuses = [await get_status(browser, "POST", SESSION, headers) for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5


async def test_sessions_are_bounded(served: ServedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 30)
    store, (admin, caller) = served.gateway.context.sessions, served.tokens
    first = store.create(caller)
    for _ in range(100):
        assert store.create(admin)
    assert len(store) == sessions.MAX_SESSIONS_OF_KEY + 1  # those of another key stay
    assert first
    assert store.create("fk_wrong") is None


async def test_without_keys_nobody_signs_in(tmp_path: Path) -> None:
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url) as served:
        for method in ("GET", "POST", "DELETE"):
            async with served.http.request(method, SESSION) as response:
                state = await response.json()
            assert (response.status, state["requires_key"], state["key"]) == (200, False, None)
            assert state["scopes"] == ["inference", "manage", "metrics"]
        assert len(served.gateway.context.sessions) == 0
