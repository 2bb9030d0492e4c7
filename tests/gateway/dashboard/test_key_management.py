"""`/api/keys`: changes of keys over HTTP, and what they must not give away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.testing import FakeService
from gateway.serving import CHAT, call, make_body, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from gateway.serving import ServedGateway

ALL = frozenset({"manage", "inference", "metrics"})
ADMIN = NewKey(name="admin", scopes=ALL)
OPERATOR = NewKey(
    name="operator",
    scopes=frozenset({"manage", "inference"}),
    models=frozenset({"fake", "other"}),
    lifetime_s=86_400.0,
)
LIMITED = NewKey(name="limited", tokens=(Limit(1000, "d"),), rate=Limit(60, "m"), parallel=2)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedGateway]:
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, ADMIN, OPERATOR, LIMITED) as served,
    ):
        yield served


async def send(
    http: aiohttp.ClientSession, method: str, path: str, body: Any = None, status: int = 200
) -> Any:
    async with http.request(method, path, json=body or {}) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def find(served: ServedGateway, name: str) -> Any:
    keys = (await send(served.http, "GET", "/api/keys"))["keys"]
    return next(key for key in keys if key["name"] == name)


async def test_a_key_is_created_and_works_at_once(served: ServedGateway) -> None:
    body = {
        "name": "ci",
        "scopes": ["inference", "metrics"],
        "models": ["Fake"],
        "expires": "90d",
        "rate": "60/m",
        "tokens": ["100000/d", "2000/m"],
        "parallel": 4,
        "weight": 2,
    }
    answer = await send(served.http, "POST", "/api/keys", body)
    key, token = answer["key"], answer["token"]
    assert token.startswith(f"fk_{key['id']}_")
    assert (key["scopes"], key["models"]) == (["inference", "metrics"], ["fake"])
    assert (key["rate"], key["tokens"]) == ("60/m", ["2000/m", "100000/d"])
    assert (key["parallel"], key["weight"], key["state"]) == (4, 2, "active")
    assert key["expires_at"] - key["created_at"] == 90 * 86_400
    headers = {"Authorization": f"Bearer {token}"}
    assert (await call(served.http, make_body("hello", "fake"), headers))[0] == 200
    assert token not in json.dumps(await send(served.http, "GET", "/api/keys"))


async def test_a_list_shows_limits_and_use(served: ServedGateway) -> None:
    async with served.open_session(2).post(CHAT, json=make_body("hello", "fake")) as response:
        usage = (await response.json())["usage"]
    key = await find(served, "limited")
    assert key["used_tokens"] == usage["total_tokens"] > 0
    assert (await find(served, "admin"))["used_tokens"] == 0
    budgets = {one["unit"]: one for one in key["budgets"]}
    assert budgets.keys() == {"tokens/d", "requests/m"}
    assert budgets["requests/m"]["limit"] - budgets["requests/m"]["remaining"] == 1
    assert 0 < budgets["tokens/d"]["remaining"] < 1000
    assert key["running"] == 0


async def test_a_key_is_changed(served: ServedGateway) -> None:
    path = f"/api/keys/{(await find(served, 'limited'))['id']}/update"
    changes = {"rate": None, "tokens": ["5000/d"], "expires": "1d", "scopes": ["metrics"]}
    changed = (await send(served.http, "POST", path, changes))["key"]
    assert (changed["rate"], changed["tokens"], changed["parallel"]) == (None, ["5000/d"], 2)
    assert changed["scopes"] == ["metrics"]
    assert (await call(served.open_session(2), make_body("hello", "fake")))[0] == 403
    # To more than the caller has.
    await send(served.open_session(1), "POST", path, {"scopes": ["inference"]}, 403)
    own = f"/api/keys/{(await find(served, 'admin'))['id']}/update"
    await send(served.http, "POST", own, {"scopes": ["inference"]}, 409)
    await send(served.http, "POST", own, {"weight": 2})


async def test_a_key_is_rotated_revoked_and_deleted(served: ServedGateway) -> None:
    key = await find(served, "limited")
    path = f"/api/keys/{key['id']}"
    rotated = await send(served.http, "POST", f"{path}/rotate", {"grace": "0"})
    assert rotated["key"]["id"] == key["id"]
    old, new = ({"Authorization": f"Bearer {one}"} for one in (served.tokens[2], rotated["token"]))
    assert (await call(served.http, make_body("hello", "fake"), old))[0] == 401
    assert (await call(served.http, make_body("hello", "fake"), new))[0] == 200
    assert (await send(served.http, "POST", f"{path}/revoke"))["key"]["state"] == "revoked"
    assert (await call(served.http, make_body("hello", "fake"), new))[0] == 401
    assert await send(served.http, "DELETE", path) == {"id": key["id"], "removed": True}
    error = (await send(served.http, "DELETE", path, status=404))["error"]
    assert error["code"] == "key_not_found"


MORE: list[tuple[dict[str, Any], str]] = [
    ({"scopes": ["metrics"], "models": ["fake"], "expires": "1h"}, "the scope metrics"),
    ({"models": ["fake", "third"], "expires": "1h"}, "models that"),
    ({"expires": "1h"}, "models that"),
    ({"models": ["fake"]}, "a later end"),
    ({"models": ["fake"], "expires": "2d"}, "a later end"),
]


async def test_a_key_gives_no_rights_that_it_lacks(served: ServedGateway) -> None:
    operator = served.open_session(1)
    for body, reason in MORE:
        error = (await send(operator, "POST", "/api/keys", {"name": "more", **body}, 403))["error"]
        assert error["code"] == "insufficient_scope"
        assert reason in error["message"]
    less = {"name": "less", "models": ["fake"], "expires": "1h"}
    await send(operator, "POST", "/api/keys", less)


async def test_a_key_changes_no_key_with_more_rights(served: ServedGateway) -> None:
    operator, path = served.open_session(1), f"/api/keys/{(await find(served, 'admin'))['id']}"
    # Rotating it would give its new token away.
    for method, action in (
        ("POST", "/update"),
        ("POST", "/rotate"),
        ("POST", "/revoke"),
        ("DELETE", ""),
    ):
        await send(operator, method, f"{path}{action}", status=403)
    assert (await find(served, "admin"))["state"] == "active"


async def test_a_key_does_not_end_itself(served: ServedGateway) -> None:
    path = f"/api/keys/{(await find(served, 'admin'))['id']}"
    for method, action, body in (
        ("POST", "/rotate", {"grace": "0"}),
        ("POST", "/revoke", {}),
        ("DELETE", "", {}),
    ):
        error = (await send(served.http, method, f"{path}{action}", body, 409))["error"]
        assert error["code"] == "key_in_use"
    assert (await send(served.http, "POST", f"{path}/rotate"))["token"]
    assert (await find(served, "admin"))["grace_until"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "name"),
    ({"name": ""}, "name"),
    ({"name": "admin"}, "name"),
    ({"name": "x", "scopes": []}, "scopes"),
    ({"name": "x", "scopes": ["root"]}, "scopes[0]"),
    ({"name": "x", "rate": "60"}, "rate"),
    ({"name": "x", "tokens": ["1/d", "2/d"]}, "tokens"),
    ({"name": "x", "models": []}, "models"),
    ({"name": "x", "expires": "soon"}, "expires"),
    ({"name": "x", "parallel": 0}, "parallel"),
    ({"name": "x", "weight": 0}, "weight"),
]


async def test_a_wrong_value_is_refused_with_its_name(served: ServedGateway) -> None:
    for body, param in WRONG:
        error = (await send(served.http, "POST", "/api/keys", body, 400))["error"]
        assert error["param"] == param
    assert len((await send(served.http, "GET", "/api/keys"))["keys"]) == 3


async def test_the_first_key_closes_the_gateway_and_no_request_creates_it(tmp_path: Path) -> None:
    async with FakeService() as upstream, serve(tmp_path, upstream.base_url) as served:
        # Any program of any user of the machine could send it, and lock the owner out.
        body = {"name": "first", "scopes": [*ALL]}
        error = (await send(served.http, "POST", "/api/keys", body, 403))["error"]
        assert error["code"] == "no_keys"
        assert "`foundry-api keys create " in error["message"]
        assert await send(served.http, "GET", "/api/keys") == {"keys": []}
        _, token = KeyDatabase(tmp_path).create(ADMIN)
        await served.gateway.reload()
        await send(served.http, "GET", "/api/keys", status=401)
        headers = {"Authorization": f"Bearer {token}"}
        async with served.http.post("/api/keys", headers=headers, json=body) as response:
            assert response.status == 200


async def test_a_database_that_cannot_be_changed_is_reported(
    tmp_path: Path, served: ServedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foundry_api.gateway.keys.errors import KeyStorageFailed  # noqa: PLC0415

    def fail(*_: object) -> None:
        raise KeyStorageFailed(f"the keys in {tmp_path} cannot be changed")

    monkeypatch.setattr(KeyDatabase, "create", fail)
    error = (await send(served.http, "POST", "/api/keys", {"name": "x"}, 503))["error"]
    assert error["code"] == "storage_failed"
    assert str(tmp_path) not in error["message"]
