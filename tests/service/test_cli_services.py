"""`up`, `down`, `status`, `health` and `models` against the real engine.

The commands run in this process, which saves each the start of an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.cli import main, services
from foundry_api.cli.services import check_endpoint, find_all_services, find_running
from foundry_api.client.client import FoundryAPIClient
from foundry_api.engine import discovery, foundry_command, shared
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import ServiceNotRunning
from foundry_api.types.settings import Settings
from service.fakes import free_port
from service.helpers import list_hosts
from support.cli_program import catalog_engine, make_command, make_environment
from support.scripted_model import build

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command and returns its result."""

    def run(*arguments: str) -> CompletedProcess[str]:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return CompletedProcess(arguments, code, captured.out, captured.err)

    return run


def test_a_shared_engine_from_up_to_down(
    run: Run, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    started = run("up", "--idle-timeout", "1", "--port", str(port))
    try:
        running = shared.find_endpoint(Paths.from_home(own_home))
        assert running is not None
        assert running.base_url == f"http://127.0.0.1:{port}"
        refused = run("up", "--port", "1")
        assert (refused.returncode, "was already running at" in refused.stderr) == (2, True)
        none = run("models", "list", "--loaded").stdout
        assert none == "No model matches these options.\n"
        assert (
            "demo" in run("models", "list", "--task", "chat", "--tools", "--device", "cpu").stdout
        )
        monkeypatch.setenv("FOUNDRY_BASE_URL", "http://127.0.0.1:9")
        assert "FOUNDRY_BASE_URL names http://127.0.0.1:9." in run("up").stderr
        monkeypatch.delenv("FOUNDRY_BASE_URL")
        assert started.stdout == (
            f"The shared engine is running at {running.base_url}\n"
            "It stops after 1 min without use.\n"
            "Stop it with: foundry-api down\n"
        )
        second = json.loads(run("up", "--json").stdout)
        assert (second["already_running"], second["url"]) == (True, running.base_url)
        assert "token" not in json.dumps(second)

        [service] = json.loads(run("status", "--json").stdout)["services"]
        assert (service["origin"], service["service"]) == ("shared", running.base_url)
        assert (service["pid"], service["status"]) == (running.pid, "healthy")
        assert service["log_path"] == running.log_path
        assert "stop with  foundry-api down" in run("status").stdout

        health = run("health", "--json")
        assert (health.returncode, json.loads(health.stdout)["status"]) == (0, "healthy")
    finally:
        stopped = run("down")
    assert stopped.stdout == "The shared engine is stopped.\n"
    assert not list_hosts(own_home)


def test_a_port_that_is_taken_is_named(run: Run, own_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("up", "--port", str(port))
    assert refused.returncode == 1
    assert f"Another program uses port {port}: give another one with --port." in refused.stderr
    assert not list_hosts(own_home)


def test_models_in_memory_are_listed_with_their_users(run: Run, own_home: Path) -> None:
    assert run("ps").stdout == "No model is in memory.\n"
    started = json.loads(run("up", "--json").stdout)
    try:

        async def use_and_list() -> str:
            settings = Settings.from_environment()
            async with FoundryAPIClient(settings=settings) as client:
                await client.complete("Hello", model="demo", max_tokens=1)
                finished = await asyncio.to_thread(
                    subprocess.run,
                    make_command("ps", "--json"),
                    env=make_environment(own_home),
                    capture_output=True,
                    check=True,
                )
            return finished.stdout.decode()

        (entry,) = json.loads(asyncio.run(use_and_list()))["models"]
        assert (entry["id"], entry["service"]) == ("demo:1", started["url"])
        assert [user["pid"] for user in entry["users"]] == [os.getpid()]
        assert entry["idle_timeout_s"] == shared.IDLE_TIMEOUT_S
        header, line = run("ps").stdout.splitlines()
        assert header.split("  ")[0] == "MODEL"
        assert line.startswith("demo:1")
        assert "30 min without use" in line
        assert max(map(len, (header, line))) <= 80
        logs = json.loads(run("engine", "logs", "--json").stdout)
        assert logs["path"] == started["log_path"]
    finally:
        run("down")


def test_commands_that_start_no_engine(run: Run, own_home: Path) -> None:
    assert json.loads(run("down", "--json").stdout) == {"was_running": False}

    status = run("status")
    assert (status.returncode, status.stderr) == (0, "")
    assert status.stdout.startswith("No service is running.")
    assert json.loads(run("status", "--json").stdout)["services"] == []

    health = run("health")
    assert health.returncode == 2
    assert "foundry-api up" in health.stdout

    load = run("models", "load", "demo")
    assert (load.returncode, load.stdout) == (1, "")
    assert "Start one with `foundry-api up`" in load.stderr
    assert not list_hosts(own_home)


def test_a_url_without_a_service_is_down(run: Run) -> None:
    health = run("health", "--base-url", "http://127.0.0.1:9", "--json")
    assert health.returncode == 2
    assert json.loads(health.stdout)["service"] == "http://127.0.0.1:9"


def test_until_ready_waits_for_a_service(run: Run, own_home: Path) -> None:
    waiting = subprocess.Popen(
        make_command("health", "--until-ready", "30", "--json"),
        stdout=subprocess.PIPE,
        env=make_environment(own_home),
    )
    try:
        run("up", "--idle-timeout", "1")
        output, _ = waiting.communicate(timeout=30)
    finally:
        waiting.kill()
        run("down")
    assert waiting.returncode == 0
    assert json.loads(output)["ready"] is True


def test_models_are_registered_loaded_unloaded_and_removed(
    run: Run, own_home: Path, tmp_path: Path
) -> None:
    build(tmp_path / "model")
    with catalog_engine(own_home):
        added = run("models", "register", str(tmp_path / "model"), "--alias", "mine")
        assert added.stdout == "mine is registered: mine:1\n"

        assert run("models", "load", "MINE").stdout == "mine is loaded: mine:1\n"
        listed = run("models", "list").stdout.splitlines()
        assert " ".join(listed[-1].split()) == "mine loaded 1 MB CPU chat 8192 mine:1"
        in_use = run("models", "remove", "mine")
        assert in_use.returncode == 1
        assert run("models", "unload", "mine").stdout == "mine is no longer loaded: mine:1\n"

        catalog = json.loads(run("models", "--catalog", "--json").stdout)["models"]
        states = {model["alias"]: (model["cached"], model["loaded"]) for model in catalog}
        assert states["phi-4-mini"] == (False, False)
        assert states["mine"] == (True, False)

        forgotten = run("models", "remove", "mine")
        assert forgotten.stdout == "mine is no longer registered; its files are kept: mine:1\n"
        missing = run("models", "remove", "mine", "--json")
        assert missing.returncode == 1
        assert json.loads(missing.stdout)["error"]["type"] == "ModelNotFound"
        assert (tmp_path / "model" / "model.onnx").is_file()

        refused = run("models", "register", str(tmp_path), "--alias", "empty")
        assert "cannot be served as a model: it has no genai_config.json" in refused.stderr


def test_a_failed_download_is_reported(run: Run, own_home: Path) -> None:
    """The catalog of the test lists models, but has no files."""
    with catalog_engine(own_home):
        for arguments in (["models", "pull", "far-away"], ["chat", "-y", "-m", "far-away", "hi"]):
            pulled = run(*arguments)
            assert (pulled.returncode, pulled.stdout) == (1, "")
            assert pulled.stderr.startswith("Error: ")


async def test_a_service_of_another_program_is_found(
    engine: Endpoint, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(engine.base_url.rpartition(":")[2])
    monkeypatch.setattr(discovery, "KNOWN_PORTS", (port, 9))
    settings = Settings(home=own_home, api_key="secret")
    [found] = await find_all_services(settings)
    assert (found.base_url, found.origin, found.control) == (engine.base_url, "port", None)
    assert (await check_endpoint(found, settings)).status == "healthy"


async def test_a_hanging_command_does_not_delay_other_services(
    engine: Endpoint, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foundry_command, "discover_urls", asyncio.Event().wait)
    monkeypatch.setattr(services, "COMMAND_TIMEOUT_S", 0.0)
    monkeypatch.setattr(discovery, "KNOWN_PORTS", (int(engine.base_url.rpartition(":")[2]),))
    found = await asyncio.wait_for(find_all_services(Settings(home=own_home)), 20)
    assert [endpoint.base_url for endpoint in found] == [engine.base_url]


async def test_a_slow_command_is_awaited(
    engine: Endpoint, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()
    look = services.discovery.probe

    async def announced_urls() -> tuple[str, ...]:
        await looked.wait()
        return (engine.base_url,)

    async def look_and_tell(url: str, *arguments: Any, **more: Any) -> Endpoint | None:
        found = await look(url, *arguments, **more)
        looked.set()
        return found

    monkeypatch.setattr(foundry_command, "discover_urls", announced_urls)
    monkeypatch.setattr(discovery, "probe", look_and_tell)
    monkeypatch.setattr(discovery, "KNOWN_PORTS", (9,))
    [found] = await find_all_services(Settings(home=own_home))
    assert (found.base_url, found.origin) == (engine.base_url, "cli")


async def test_discovery_starts_no_engine(own_home: Path) -> None:
    with pytest.raises(ServiceNotRunning):
        await find_running(Settings(home=own_home))
    assert not list_hosts(own_home)
