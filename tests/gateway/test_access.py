"""Keys, scopes and exposure, through a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.errors import UnsafeAddress
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey
from foundry_api.gateway.routes import ROUTES
from foundry_api.gateway.upstreams.config import UpstreamConfig, make_services
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.events import AttemptStarted
from foundry_api.types.settings import Settings
from gateway.helpers import make_recording
from gateway.shapes import check_shape, parse_events
from support.cli_program import run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from foundry_api.gateway.keys.types import Scope

CHAT = "/v1/chat/completions"
OPEN_ROUTES = {
    ("GET", "/healthz"): 200,
    ("GET", "/readyz"): 200,
    ("GET", "/"): 200,
    ("GET", "/assets/{id}"): 404,
    ("GET", "/api/session"): 200,
}


@pytest.fixture
def keys(tmp_path: Path) -> KeyDatabase:
    """The key database of the gateway; the tests create keys before they start it."""
    return KeyDatabase(tmp_path / "gateway")


@pytest.fixture
def token(keys: KeyDatabase) -> str:
    """A key for calls. It exists before the gateway starts."""
    return keys.create(NewKey(name="caller", models=frozenset({"scripted"})))[1]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def make_body(prompt: str, model: str = "scripted", **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **options}


async def get(
    http: aiohttp.ClientSession, path: str, headers: Mapping[str, str]
) -> tuple[int, Any]:
    async with http.get(path, headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_p16_a_route_is_closed_unless_it_is_listed(
    token: str, http: aiohttp.ClientSession, route: Any
) -> None:
    assert token
    async with http.request(route.method, route.path.replace("{id}", "x")) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        if (route.method, route.path) in OPEN_ROUTES:
            assert response.status == OPEN_ROUTES[route.method, route.path]
            return
        assert route.access != "open"
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_p17_every_cause_has_the_same_401(
    token: str, keys: KeyDatabase, http: aiohttp.ClientSession
) -> None:
    revoked = keys.create(NewKey(name="revoked"))[1]
    keys.revoke("revoked")
    expired = keys.create(NewKey(name="expired", lifetime_s=0.001))[1]
    values = [
        {},
        bearer(revoked),
        bearer(expired),
        bearer("fk_" + "0" * 60),
        bearer("' OR '1'='1"),
        bearer("%s"),
        bearer(token[:-1]),
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": f"Bearer {token}", "x-api-key": "another"},
    ]
    answers: set[str] = set()
    for headers in values:
        async with http.get("/v1/models", headers=headers) as response:
            assert response.status == 401, headers
            answers.add(await response.text())
    assert len(answers) == 1
    assert token not in answers.pop()


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key"])
async def test_a_key_is_accepted_in_three_headers(
    token: str, http: aiohttp.ClientSession, name: str
) -> None:
    headers = bearer(token) if name == "Authorization" else {name: token}
    assert (await get(http, "/v1/models/scripted", headers))[0] == 200
    assert (await get(http, f"/v1/models/scripted?api_key={token}", {}))[0] == 401


async def test_p17_403_names_only_the_model_that_was_asked_for(
    token: str, http: aiohttp.ClientSession
) -> None:
    async with http.post(
        CHAT, json=make_body("say-hello", "embedder"), headers=bearer(token)
    ) as response:
        answer = await response.json()
    check_shape("error", answer)
    assert (response.status, answer["error"]["code"]) == (403, "model_not_allowed")
    assert "scripted" not in answer["error"]["message"]


MESSAGES = [{"role": "user", "content": "say-hello"}]
# Every route that takes a model.
MODEL_BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    "/v1/completions": {"prompt": "say-hello"},
    "/v1/embeddings": {"input": "text"},
    "/v1/responses": {"input": "say-hello"},
    "/v1/responses/input_tokens": {"input": "say-hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/audio/transcriptions": {},
}


class TestModelsOfAKey:
    @pytest.fixture
    def config(self) -> GatewayConfig:
        """A gateway whose default model is one that the key may not use."""
        return GatewayConfig(port=0, model="embedder")

    def test_all_routes_that_take_a_model_are_here(self) -> None:
        takes_model = {
            route.path
            for route in ROUTES
            if (route.method, route.access) == ("POST", "inference")
            and route.path.startswith("/v1/")
            and "{id}" not in route.path
        }
        # Each line of a batch has a model.
        of_batches = {"/v1/files", "/v1/batches", "/v1/messages/batches"}
        assert takes_model - of_batches == set(MODEL_BODIES)

    @pytest.mark.parametrize("path", MODEL_BODIES)
    async def test_p17_another_model_is_refused_and_the_default_one_is_not_named(
        self, token: str, http: aiohttp.ClientSession, path: str
    ) -> None:
        for model, expected in (
            ({"model": "embedder"}, (403, "model_not_allowed")),
            ({}, (400, "missing_required_parameter")),
        ):
            body: dict[str, Any] = {"json": {**MODEL_BODIES[path], **model}}
            if path.endswith("transcriptions"):
                form = aiohttp.FormData(model)
                form.add_field("file", make_recording(), filename="a.wav")
                body = {"data": form}
            async with http.post(path, headers=bearer(token), **body) as response:
                answer = await response.json()
            error = answer["error"]
            # Anthropic's errors have no code.
            code = error.get("code", expected[1])
            assert (response.status, code) == expected, error
            assert model or ("embedder" not in error["message"] and "model" in error["message"])

    async def test_p17_a_line_of_a_batch_does_not_name_it_either(
        self, token: str, http: aiohttp.ClientSession
    ) -> None:
        line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": MODEL_BODIES[CHAT]}
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", json.dumps(line).encode(), filename="x")
        async with http.post("/v1/files", data=form, headers=bearer(token)) as response:
            stored = await response.json()
        body = {"input_file_id": stored["id"], "endpoint": CHAT, "completion_window": "24h"}
        async with http.post("/v1/batches", json=body, headers=bearer(token)) as response:
            batch = await response.json()
        async with asyncio.timeout(60):
            while batch["status"] != "failed":
                _, batch = await get(http, f"/v1/batches/{batch['id']}", bearer(token))
        [problem] = batch["errors"]["data"]
        assert (problem["code"], problem["param"]) == ("missing_required_parameter", "model")


async def test_p15_no_other_field_names_the_model(token: str, http: aiohttp.ClientSession) -> None:
    body = make_body("say-hello", "embedder", metadata={"model": "scripted"}, engine="scripted")
    for path in (f"{CHAT}?model=scripted", f"{CHAT}?deployment=scripted"):
        headers = {**bearer(token), "X-Model": "scripted"}
        async with http.post(path, json=body, headers=headers) as response:
            assert response.status == 403
    # The model in Azure's path is the one that is called, so it is the one that is checked.
    body = make_body("say-hello", "scripted")
    azure = "/openai/deployments/{}/chat/completions"
    for model, status in (("embedder", 403), ("scripted", 200)):
        async with http.post(azure.format(model), json=body, headers=bearer(token)) as response:
            assert response.status == status


@pytest.mark.parametrize("scope", ["inference", "manage", "metrics"])
async def test_p20_each_scope_opens_its_own_routes(
    keys: KeyDatabase, gateway: Gateway, http: aiohttp.ClientSession, scope: Scope
) -> None:
    token = keys.create(NewKey(name=scope, scopes=frozenset({scope})))[1]
    await gateway.context.keyring.reload()
    closed = {"POST": set[str](), "GET": set[str](), "DELETE": set[str]()}
    for route in ROUTES:
        if route.access == "open" or scope in route.access.split(" or "):
            continue
        closed[route.method].add(route.path)
        path = route.path.replace("{id}", "scripted")
        async with http.request(route.method, path, headers=bearer(token)) as response:
            assert response.status == 403, path
            if not path.startswith("/v1/messages"):  # Anthropic's errors have no code
                assert (await response.json())["error"]["code"] == "insufficient_scope"
    assert (CHAT in closed["POST"]) == (scope != "inference")
    assert ("/metrics" in closed["GET"]) == (scope != "metrics")
    assert ("/api/keys" in closed["GET"]) == (scope != "manage")


async def test_an_address_that_keeps_failing_is_refused(
    token: str, http: aiohttp.ClientSession
) -> None:
    statuses = [(await get(http, "/v1/models", bearer("fk_wrong")))[0] for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    # A valid key of the same address, such as that of a proxy, is not locked out with it.
    assert (await get(http, "/v1/models", bearer(token)))[0] == 200
    assert (await get(http, "/v1/models", bearer("fk_wrong")))[0] == 429


async def test_the_running_stream_of_a_revoked_key_ends_with_an_error(
    keys: KeyDatabase, token: str, gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    async with http.post(
        CHAT, json=make_body("say-slowly", stream=True), headers=bearer(token)
    ) as response:
        assert response.status == 200
        start = await response.content.readline()
        await asyncio.to_thread(keys.revoke, "caller")
        await gateway.context.keyring.reload()  # the watch does it, twice a second
        events = parse_events((start + await response.content.read()).decode())
    assert events[-1]["error"]["code"] == "invalid_api_key"
    assert "[DONE]" not in events
    assert gateway.context.admission.scheduler.active == 0
    assert (await get(http, "/v1/models", bearer(token)))[0] == 401


async def test_the_events_of_an_expired_key_end(
    keys: KeyDatabase, gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    new = NewKey(name="brief", scopes=frozenset({"manage"}), lifetime_s=2)
    token = (await asyncio.to_thread(keys.create, new))[1]
    await gateway.context.keyring.reload()
    async with http.get("/models/sse", headers=bearer(token)) as response:
        assert response.status == 200
        events = await asyncio.wait_for(response.content.read(), 30)  # to the end
    assert b'"code":"invalid_api_key"' in events


async def test_the_running_call_of_a_removed_key_ends_with_401(
    keys: KeyDatabase, token: str, gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    started = asyncio.Event()
    gateway.context.client.events.subscribe(lambda _: started.set(), AttemptStarted)
    call = asyncio.ensure_future(
        http.post(CHAT, json=make_body("say-slowly"), headers=bearer(token))
    )
    await started.wait()
    await asyncio.to_thread(keys.remove, "caller")
    await gateway.context.keyring.reload()
    async with await call as response:
        assert response.status == 401
    assert gateway.context.admission.scheduler.active == 0


async def test_the_first_key_closes_a_gateway_that_served_without(
    keys: KeyDatabase, gateway: Gateway, http: aiohttp.ClientSession
) -> None:
    assert (await get(http, "/v1/models", {}))[0] == 200
    token = (await asyncio.to_thread(keys.create, NewKey(name="first")))[1]
    await gateway.context.keyring.reload()
    assert (await get(http, "/v1/models", {}))[0] == 401
    assert (await get(http, "/v1/models", bearer(token)))[0] == 200
    await asyncio.to_thread(keys.remove, "first")
    await gateway.context.keyring.reload()
    assert (await get(http, "/v1/models", {}))[0] == 401


async def test_two_gateways_do_not_share_a_directory(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.url
    async with FoundryAPIClient("http://127.0.0.1:9") as client:
        other = Gateway(GatewayConfig(port=0), client, tmp_path / "gateway")
        with pytest.raises(ConfigurationError, match="another gateway uses"):
            await other.__aenter__()


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
async def test_a_lock_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "gateway.lock").symlink_to(tmp_path / "elsewhere")
    async with FoundryAPIClient("http://127.0.0.1:9") as client:
        gateway = Gateway(GatewayConfig(port=0), client, tmp_path)
        with pytest.raises(ConfigurationError, match=r"gateway\.lock cannot be locked"):
            await gateway.__aenter__()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("has_key", "options", "problem"),
    [
        (False, {"host": "0.0.0.0"}, "there are no keys"),  # noqa: S104 - refused
        (False, {"host": "::", "insecure_http": True}, "there are no keys"),
        (False, {"host": "192.0.2.1", "insecure_http": True}, "there are no keys"),
        (True, {"host": "0.0.0.0"}, "keys would be sent unencrypted"),  # noqa: S104
        (True, {"host": "0.0.0.0", "insecure_http": True}, None),  # noqa: S104
        (False, {"host": "127.0.0.2"}, None),
        (False, {"host": "::1"}, None),
    ],
)
async def test_only_loopback_is_served_without_keys_and_tls(
    tmp_path: Path, keys: KeyDatabase, *, has_key: bool, options: Any, problem: str | None
) -> None:
    if has_key:
        keys.create(NewKey(name="k"))
    async with FoundryAPIClient("http://127.0.0.1:9") as client:
        gateway = Gateway(GatewayConfig(port=0, **options), client, tmp_path / "gateway")
        try:
            if problem is None:
                await gateway.check()
            else:
                with pytest.raises(UnsafeAddress, match=problem):
                    await gateway.check()
        finally:
            await gateway.aclose()


def test_an_unsafe_address_is_exit_code_78(own_home: Path) -> None:
    refused = run("serve", "--host", "0.0.0.0", "--check", home=own_home)  # noqa: S104
    assert refused.returncode == 78
    assert "there are no keys" in refused.stderr
    assert "foundry-api keys create" in refused.stderr
    run("keys", "create", "--name", "k", home=own_home)
    refused = run("serve", "--host", "0.0.0.0", home=own_home)  # noqa: S104
    assert refused.returncode == 78
    assert "--tls-cert" in refused.stderr
    valid = run("serve", "--host", "0.0.0.0", "--insecure-http", "--check", home=own_home)  # noqa: S104
    assert (valid.returncode, valid.stdout) == (0, "The configuration is valid.\n")


class TestOrigins:
    """P23."""

    @pytest.fixture
    def config(self) -> GatewayConfig:
        return GatewayConfig(port=0, origins=("https://app.example",))

    async def test_p23_a_named_origin_may_call(self, http: aiohttp.ClientSession) -> None:
        headers = {"Origin": "https://app.example"}
        async with http.get("/v1/models", headers=headers) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert response.headers["Vary"] == "Origin"
        headers |= {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        async with http.options(CHAT, headers=headers) as preflight:
            assert preflight.status == 204
            allowed = preflight.headers["Access-Control-Allow-Headers"]
            assert allowed == "authorization,content-type"
            assert "Access-Control-Allow-Credentials" not in preflight.headers

    async def test_p23_others_may_not(self, http: aiohttp.ClientSession) -> None:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        async with http.options(CHAT, headers=headers) as preflight:
            assert preflight.status == 403
            assert not any(name.startswith("Access-Control") for name in preflight.headers)


async def test_p23_without_named_origins_none_may_call(http: aiohttp.ClientSession) -> None:
    for origin in ("https://app.example", "null"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for path in (CHAT, "/v1/models", "/api/status", "/healthz"):
            async with http.options(path, headers=headers) as preflight:
                assert preflight.status == 403
                assert not any(name.startswith("Access-Control") for name in preflight.headers)


async def test_a_wrong_host_is_named(http: aiohttp.ClientSession) -> None:
    status, answer = await get(http, "/healthz", {"Host": "other.example:80"})
    assert (status, answer["error"]["code"]) == (400, "invalid_host")
    assert "names other.example:80, not this gateway" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("host", "url", "is_own"),
    [
        ("127.0.0.1", "http://127.0.0.1:5270", True),
        ("127.0.0.1", "http://localhost:5270/v1", True),
        ("::", "http://[::1]:5270", True),
        ("10.0.0.7", "http://10.0.0.7:5270", True),
        ("10.0.0.7", "http://127.0.0.1:5270", False),
        ("127.0.0.1", "http://127.0.0.1:5272", False),
    ],
)
async def test_a_gateway_does_not_call_itself(
    tmp_path: Path, token: str, host: str, url: str, *, is_own: bool
) -> None:
    assert token
    async with FoundryAPIClient(url) as client:
        gateway = Gateway(
            GatewayConfig(host=host, insecure_http=True), client, tmp_path / "gateway"
        )
        if is_own:
            with pytest.raises(ConfigurationError, match="the gateway itself"):
                await gateway.check()
        else:
            await gateway.check()
        await gateway.aclose()
        upstream = UpstreamConfig(name="a", url=url)
        config = GatewayConfig(host=host, insecure_http=True, upstream=(upstream,))
    async with FoundryAPIClient(
        settings=Settings(services=make_services(config.upstream))
    ) as client:
        gateway = Gateway(config, client, tmp_path / "gateway")
        if is_own:
            with pytest.raises(ConfigurationError, match="the gateway itself"):
                await gateway.check()
        await gateway.aclose()
