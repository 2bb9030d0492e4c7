"""A real engine host: its start and its control API."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.engine.control import ControlClient
from foundry_api.engine.handshake import ModelSource, get_service_generation
from foundry_api.types.errors import (
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
    ModelRegistrationFailed,
    ServiceCrashed,
)
from foundry_api.wire.dialects.detect import detect_service
from foundry_api.wire.transport import Request, fetch
from service.helpers import make_model_directory, wait_until_async
from support.scripted_model import build, script

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.engine.endpoint import ControlAddress
    from foundry_api.engine.supervisor import EngineHost
    from foundry_api.storage.paths import Paths
    from foundry_api.wire.http import HttpTransport

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")


def get_control_address(host: EngineHost) -> ControlAddress:
    assert host.endpoint
    assert host.endpoint.control
    return host.endpoint.control


async def test_a_host_serves_the_api_of_2_1(
    start: Callable[..., EngineHost], transport: HttpTransport
) -> None:
    host = start()
    endpoint = await host.wait_ready()
    status = await detect_service(transport, endpoint.base_url, {}, 10.0)
    assert (status.service_generation, endpoint.service_generation) == ("sdk-2.1", "sdk-2.1")
    assert status.pid == endpoint.pid == host.pid
    assert endpoint.origin == "embedded"
    assert endpoint.sdk_version == "2.2.1"
    assert endpoint.started_at == pytest.approx(psutil.Process(endpoint.pid).create_time(), abs=20)


@posix
async def test_other_users_cannot_read_the_log_or_the_directories(
    start: Callable[..., EngineHost], paths: Paths
) -> None:
    host = start()
    await host.wait_ready()
    assert host.log_path
    assert stat.S_IMODE(host.log_path.stat().st_mode) == 0o600
    for directory in (paths.data, paths.logs, paths.state):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_the_token_is_in_no_argument_and_no_repr(
    start: Callable[..., EngineHost],
) -> None:
    host = start()
    endpoint = await host.wait_ready()
    token = get_control_address(host).token
    assert len(token) >= 32
    assert token not in repr(endpoint)
    assert token not in " ".join(psutil.Process(endpoint.pid).cmdline())


async def test_requests_need_the_token_and_a_loopback_host_header(
    start: Callable[..., EngineHost], transport: HttpTransport, subtests: pytest.Subtests
) -> None:
    host = start()
    await host.wait_ready()
    control = get_control_address(host)
    valid = {"Authorization": f"Bearer {control.token}"}
    cases: list[tuple[dict[str, str], int]] = [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer \u00fc"}, 401),
        ({**valid, "Host": "evil.example:80"}, 403),
        (valid, 200),
        ({**valid, "Host": "localhost"}, 200),
    ]
    for headers, status in cases:
        with subtests.test(headers=headers):
            request = Request("GET", f"{control.url}/host", headers)
            reply = await fetch(transport, request, timeout_s=10)
            assert reply.status == status
            assert control.token.encode() not in reply.body


async def test_the_host_reports_its_info_and_memory(
    start: Callable[..., EngineHost], transport: HttpTransport, tmp_path: Path
) -> None:
    host = start(models=(ModelSource(str(tmp_path / "nothing"), "broken"),))
    await host.wait_ready()
    control = ControlClient(transport, get_control_address(host))
    info = await control.get_host_info()
    assert (info.pid, info.owner_pid, info.sdk_version) == (host.pid, os.getpid(), "2.2.1")
    assert 0 <= info.uptime_s < 60
    assert info.log_path == str(host.log_path)
    assert "there is no such directory" in info.problems[0]
    assert (await control.get_memory()).rss_bytes > 10 * 2**20


async def test_models_can_be_registered_and_unregistered(
    start: Callable[..., EngineHost], transport: HttpTransport, tmp_path: Path
) -> None:
    host = start()
    await host.wait_ready()
    control = ControlClient(transport, get_control_address(host))
    assert await control.list_local_models() == []
    directory = make_model_directory(tmp_path / "model")
    registered = await control.register(directory, "mine")
    assert (registered.id, registered.alias, registered.catalog) == ("mine:1", "mine", "local")
    assert (registered.device, registered.context_length) == ("CPU", 512)
    assert registered.cached
    assert not registered.loaded
    assert await control.list_local_models() == [registered]
    with pytest.raises(InvalidRequest, match="registered directory"):
        await control.remove("mine")
    await control.unregister("mine")
    assert await control.list_local_models() == []
    assert directory.is_dir()


async def test_invalid_requests_raise_typed_errors(
    start: Callable[..., EngineHost], transport: HttpTransport, tmp_path: Path
) -> None:
    host = start()
    await host.wait_ready()
    control = ControlClient(transport, get_control_address(host))
    with pytest.raises(ModelNotFound):
        await control.unregister("nobody/../x")
    with pytest.raises(ModelRegistrationFailed, match="there is no such directory"):
        await control.register(tmp_path / "nothing", "mine")
    with pytest.raises(InvalidRequest, match="cannot be the alias of a model"):
        await control.register(make_model_directory(tmp_path / "model"), "no name")


async def test_invalid_and_long_bodies_are_rejected(
    start: Callable[..., EngineHost], transport: HttpTransport, subtests: pytest.Subtests
) -> None:
    host = start()
    await host.wait_ready()
    control = get_control_address(host)
    headers = {"Authorization": f"Bearer {control.token}"}
    for body in (b"", b"[]", b'{"path": 1}', b"\xff", b"x" * 100_000):
        with subtests.test(body=body[:20]):
            request = Request("POST", f"{control.url}/models", headers, body)
            reply = await fetch(transport, request, timeout_s=10)
            assert reply.status in {400, 413}
            assert json.loads(reply.body)["kind"] == "InvalidRequest"


async def test_shutdown_ends_the_host(
    start: Callable[..., EngineHost], transport: HttpTransport
) -> None:
    host = start()
    await host.wait_ready()
    await ControlClient(transport, get_control_address(host)).shutdown()
    await wait_until_async(lambda: not host.is_alive)


async def test_a_loaded_model_cannot_be_unregistered(
    start: Callable[..., EngineHost], transport: HttpTransport, tmp_path: Path
) -> None:
    build(tmp_path / "scripted")
    host = start()
    endpoint = await host.wait_ready()
    control = ControlClient(transport, get_control_address(host))
    await control.register(tmp_path / "scripted", "scripted")
    local = f"{endpoint.base_url}/catalogs/local"
    await fetch(transport, Request("GET", f"{local}/models/load/scripted"), timeout_s=30)
    body = {"model": "scripted:1", "messages": [{"role": "user", "content": "Please say-hello."}]}
    request = Request(
        "POST",
        f"{local}/v1/chat/completions",
        {"Content-Type": "application/json"},
        json.dumps({**body, "max_tokens": 50}).encode(),
    )
    answer = json.loads((await fetch(transport, request, timeout_s=30)).body)
    assert answer["choices"][0]["message"]["content"] == script("say-hello").text
    assert (await control.list_local_models())[0].loaded
    with pytest.raises(ModelInUse, match="loaded"):
        await control.unregister("scripted")


@pytest.mark.parametrize(
    ("version", "generation"),
    [
        ("1.2.4", "sdk-1"),
        ("2.0.1", "sdk-2.0"),
        ("2.1.0", "sdk-2.1"),
        ("2.2.1", "sdk-2.1"),
        ("3.0", "sdk-2.1"),
    ],
)
def test_the_generation_depends_on_the_version(version: str, generation: str) -> None:
    assert get_service_generation(version) == generation


async def test_a_host_exits_when_its_engine_is_shut_down(
    start: Callable[..., EngineHost], transport: HttpTransport
) -> None:
    host = start()
    endpoint = await host.wait_ready()
    with pytest.raises(ServiceCrashed):  # the engine never answers this one
        await fetch(transport, Request("POST", f"{endpoint.base_url}/shutdown"), timeout_s=10)
    await wait_until_async(lambda: not host.is_alive)
