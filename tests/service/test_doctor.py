"""Doctor on machines with faults, each planted for real: on sockets, in files, in processes.

Two senses are injected, because no test can fill the machine's disk or memory: how much of them is
free. Everything else is looked at as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.cli.doctor import foundry_command
from foundry_api.cli.doctor.context import DiagnosticContext, Probes
from foundry_api.cli.doctor.environment import make_usable_settings
from foundry_api.cli.doctor.finding import Finding
from foundry_api.cli.doctor.runner import run_checks
from foundry_api.engine import discovery, shared
from foundry_api.engine.control import ControlClient
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.models.registry_file import get_registry_path
from foundry_api.engine.process import HostOptions
from foundry_api.types.errors import UnsupportedFeature
from service.fakes import (
    free_port,
    install_fake_foundry,
    make_service_routes,
    run_fake_server,
    run_silent_server,
)
from service.helpers import (
    DAMAGED_REGISTRIES,
    list_hosts,
    make_model_directory,
    start_program,
    wait_until,
    wait_until_async,
)
from support.fakes.fake_cli010 import FakeCli010Service
from support.fakes.fake_legacy import FakeLegacyService
from support.loopback_catalog import make_entity, run_catalog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from foundry_api.storage.paths import Paths
    from foundry_api.wire.http import HttpTransport

GB = 2**30
COMMAND_LINES = {"legacy": FakeLegacyService, "cli-0.10": FakeCli010Service}
Examined = Callable[..., Awaitable[dict[str, Finding]]]


@pytest.fixture
def bin_directory(tmp_path: Path) -> Path:
    """The only directory on the examined machine's PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


@pytest.fixture
def examined(home: Path, bin_directory: Path) -> Examined:
    """Examines this machine under an environment; the findings by their ids.

    No engine is started unless a test wants one, and only the ports that it names are known. Hosts
    that other tests of this machine leave behind are theirs.
    """

    async def examined(
        *,
        quick: bool = True,
        online: bool = False,
        model: str | None = None,
        probes: dict[str, object] | None = None,
        **variables: str,
    ) -> dict[str, Finding]:
        environ = {"FOUNDRY_HOME": str(home), "PATH": str(bin_directory), **variables}
        ample = {"disk_free": lambda _: 100 * GB, "memory_available": lambda: 32 * GB, "ports": ()}
        machine = DiagnosticContext(
            make_usable_settings(environ),
            environ,
            quick=quick,
            online=online,
            model=model,
            probes=Probes(**{**ample, **(probes or {})}),  # type: ignore[arg-type] # a test's own
        )
        async with machine:
            findings = await run_checks(machine)
        findings = [f for f in findings if f.id != "leftover-host" or str(home) in f.evidence]
        assert all(finding.evidence and finding.group for finding in findings)
        assert all(f.remedy for f in findings if f.level in {"warning", "problem"})
        return {finding.id: finding for finding in findings}

    return examined


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "KNOWN_TIMEOUT_S", 0.4)


@pytest.fixture
def shared_host(paths: Paths) -> Iterator[Callable[..., psutil.Process]]:
    """Starts a shared engine; its process."""
    started: list[psutil.Process] = []

    def start(**options: object) -> psutil.Process:
        given = HostOptions(paths=paths, **options)  # type: ignore[arg-type] # a test's own
        endpoint, _ = shared.start(paths, idle_timeout_s=120, options=given)
        assert endpoint.pid
        started.append(psutil.Process(endpoint.pid))
        return started[-1]

    yield start
    for process in started:
        if process.is_running():
            process.kill()
            wait_until(lambda process=process: not process.is_running() or is_zombie(process))


def is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wrong(findings: dict[str, Finding], *, but: frozenset[str] = frozenset()) -> set[str]:
    return {
        finding.id for finding in findings.values() if finding.level in {"warning", "problem"}
    } - but


# A healthy machine


async def test_a_healthy_machine_has_nothing_wrong(examined: Examined, home: Path) -> None:
    found = await examined(quick=False)
    assert wrong(found) == set()
    assert {"engine-starts", "demo-answers", "loopback-open", "home-usable"} <= found.keys()
    assert not list_hosts(home)


async def test_a_healthy_machine_with_a_shared_engine_and_foundrys_command(
    examined: Examined,
    shared_host: Callable[..., psutil.Process],
    bin_directory: Path,
    tmp_path: Path,
    paths: Paths,
) -> None:
    mine = ModelSource(str(make_model_directory(tmp_path / "mine")), "mine")
    with run_catalog([make_entity("phi-4-mini", "Phi-4-mini-instruct-generic-cpu", 4)]) as url:
        shared_host(catalog_url=url, models=(mine,))
        running = shared.find_endpoint(paths)
        assert running
        told = {"running": True, "webUrls": [running.base_url]}
        install_fake_foundry(bin_directory, server=f"print('{json.dumps(told)}')", version="0.10.3")
        found = await examined(quick=False)
    assert wrong(found, but=frozenset({"cli-slow"})) == set()
    assert running.base_url in found["service-found"].evidence
    assert "0.10.3 (0.10" in found["cli-found"].evidence
    assert found["registered-models"].evidence == "mine:1"
    assert "1 variants" in found["catalog-answers"].evidence
    assert found["model-not-cached"].level == "note"


# Addresses


async def test_a_dead_port(examined: Examined) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = await examined(FOUNDRY_BASE_URL=url)
    assert wrong(found) == {"dead-port"}
    assert url in found["dead-port"].evidence
    assert "FOUNDRY_BASE_URL" in found["dead-port"].remedy


async def test_each_of_several_addresses(examined: Examined) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with run_fake_server(make_service_routes("sdk-2.1")) as alive:
        found = await examined(FOUNDRY_BASE_URLS=f"{alive},{dead}")
    assert dead in found["dead-port"].evidence
    assert alive in found["service-found"].evidence


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog is refused elsewhere")
async def test_an_address_that_drops_packets(examined: Examined) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        with socket.create_connection(address):  # nobody accepts it, and there is no second place
            url = f"http://127.0.0.1:{address[1]}"
            found = await examined(FOUNDRY_BASE_URL=url, FOUNDRY_CONNECT_TIMEOUT="0.3")
    assert wrong(found) == {"unreachable-address"}
    assert "0.3 s" in found["unreachable-address"].evidence


async def test_a_silent_port(examined: Examined, short_patience: None) -> None:
    with run_silent_server() as url:
        found = await examined(FOUNDRY_BASE_URL=url)
    assert wrong(found) == {"silent-port"}
    assert url in found["silent-port"].evidence


async def test_a_foreign_server(examined: Examined) -> None:
    async with run_fake_server({"/": "welcome"}) as url:
        found = await examined(FOUNDRY_BASE_URL=url)
    assert wrong(found) == {"foreign-server"}
    assert url in found["foreign-server"].evidence


async def test_a_service_that_wants_a_credential(examined: Examined) -> None:
    async with run_fake_server({}, missing=401) as url:
        found = await examined(FOUNDRY_BASE_URL=url, FOUNDRY_API_KEY="wrong")
    assert wrong(found) == {"credential-refused"}
    assert "FOUNDRY_API_KEY" in found["credential-refused"].remedy


@pytest.mark.parametrize("generation", ["legacy", "cli-0.10", "sdk-2.0", "sdk-2.1"])
async def test_a_generation_that_the_client_does_not_speak(
    examined: Examined, generation: str
) -> None:
    """The doctor says of a generation what the client says of it."""
    async with doubled(generation) as url:
        found = await examined(FOUNDRY_BASE_URL=url)
        spoken = await is_spoken(url)
    assert ("unsupported-generation" in found) is not spoken
    told = found["service-found" if spoken else "unsupported-generation"]
    assert generation in told.evidence


@contextlib.asynccontextmanager
async def doubled(generation: str) -> AsyncIterator[str]:
    """The address of a fake of a generation."""
    if generation in COMMAND_LINES:
        async with COMMAND_LINES[generation]() as fake:
            yield fake.base_url
    else:
        async with run_fake_server(make_service_routes(generation)) as url:
            yield url


async def is_spoken(url: str) -> bool:
    async with FoundryAPIClient(base_url=url, max_retries=0) as client:
        try:
            await client.health_check()
        except UnsupportedFeature:
            return False
    return True


async def test_a_known_port_held_by_another_program(examined: Examined) -> None:
    async with run_fake_server({"/": "welcome"}) as url:
        port = int(url.rpartition(":")[2])
        found = await examined(probes={"ports": (port, free_port())})
    assert wrong(found) == {"port-taken"}
    assert f"pid {os.getpid()}" in found["port-taken"].evidence
    assert str(port) in found["port-taken"].remedy


async def test_a_shared_engine_that_hangs(
    examined: Examined, shared_host: Callable[..., psutil.Process], short_patience: None
) -> None:
    process = shared_host(models=())
    process.suspend()
    await wait_until_async(lambda: process.status() == psutil.STATUS_STOPPED)
    found = await examined()
    assert wrong(found) == {"shared-host-silent"}
    assert str(process.pid) in found["shared-host-silent"].evidence


# Foundry's own command


async def test_a_command_that_hangs(examined: Examined, bin_directory: Path) -> None:
    install_fake_foundry(bin_directory, server="time.sleep(600)", service="time.sleep(600)")
    found = await examined(probes={"command_timeout_s": 0.5})
    assert wrong(found) == {"cli-hangs"}
    assert "500 ms" in found["cli-hangs"].evidence


@pytest.mark.parametrize("generation", ["0.10", "0.8"])
async def test_a_command_that_names_a_dead_address(
    examined: Examined, bin_directory: Path, generation: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    if generation == "0.10":
        told = json.dumps({"running": True, "state": "ready", "webUrls": [url]})
        install_fake_foundry(bin_directory, server=f"print('{told}')")
    else:
        line = f"Model management service is running on {url}/openai/status"
        install_fake_foundry(bin_directory, service=f"print('{line}')")
    found = await examined()
    assert wrong(found, but=frozenset({"cli-slow"})) == {"cli-announces-dead"}
    assert url in found["cli-announces-dead"].evidence
    restart = "foundry server restart" if generation == "0.10" else "foundry service restart"
    assert restart in found["cli-announces-dead"].remedy


async def test_a_command_that_denies_its_service(examined: Examined, bin_directory: Path) -> None:
    async with doubled("cli-0.10") as url:
        told = json.dumps({"running": False, "state": "not_running", "webUrls": [url]})
        install_fake_foundry(bin_directory, server=f"print('{told}')")
        found = await examined()
    assert "cli-denies-running" in wrong(found)
    assert url in found["cli-denies-running"].evidence


async def test_a_command_that_denies_the_service_at_a_known_port(
    examined: Examined, bin_directory: Path
) -> None:
    stopped = "Model management service is not running!"
    install_fake_foundry(bin_directory, service=f"print('{stopped}')", version="0.8.101")
    async with doubled("legacy") as url:
        found = await examined(probes={"ports": (int(url.rpartition(":")[2]),)})
    assert url in found["cli-denies-running"].evidence


async def test_several_commands_on_the_path(
    examined: Examined, bin_directory: Path, tmp_path: Path
) -> None:
    line = "print('Model management service is not running!')"
    other = tmp_path / "other"
    for directory in (bin_directory, other):
        install_fake_foundry(directory, service=line)
    path = os.pathsep.join(map(str, (bin_directory, other)))
    found = await examined(PATH=path)
    assert wrong(found, but=frozenset({"cli-slow"})) == {"several-cli"}
    assert str(other) in found["several-cli"].evidence


async def test_a_command_that_does_not_run(examined: Examined, bin_directory: Path) -> None:
    install_fake_foundry(bin_directory)
    found = await examined()
    assert wrong(found) == {"cli-fails"}


async def test_a_command_that_is_slower_than_calls_wait(
    examined: Examined, bin_directory: Path
) -> None:
    delay = foundry_command.TIMEOUT_S
    install_fake_foundry(
        bin_directory, service=f"time.sleep({delay}); print('service is not running!')"
    )
    found = await examined()
    assert wrong(found) == {"cli-slow"}


# Leftovers


async def test_the_state_of_a_killed_engine(
    examined: Examined, shared_host: Callable[..., psutil.Process], paths: Paths
) -> None:
    process = shared_host(models=())
    process.kill()
    await wait_until_async(lambda: is_zombie(process))
    found = await examined()
    assert wrong(found) == {"stale-state"}
    assert str(process.pid) in found["stale-state"].evidence
    assert str(paths.state_file) in found["stale-state"].evidence
    shared.stop(paths)  # the remedy
    assert wrong(await examined()) == set()


async def test_a_damaged_state(examined: Examined, paths: Paths) -> None:
    paths.create().state_file.write_text('{"type": "ready", "url"', encoding="utf-8")
    paths.state_file.chmod(0o600)
    found = await examined()
    assert wrong(found) == {"corrupt-state"}
    shared.stop(paths)  # the remedy
    assert wrong(await examined()) == set()


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
async def test_a_state_that_others_can_read(
    examined: Examined, shared_host: Callable[..., psutil.Process], paths: Paths
) -> None:
    shared_host(models=())
    paths.state_file.chmod(0o644)
    found = await examined()
    assert wrong(found) == {"readable-by-others"}
    assert found["readable-by-others"].evidence == f"{paths.state_file} has mode 644"
    assert f"chmod 600 {paths.state_file}" in found["readable-by-others"].remedy


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
async def test_a_directory_that_others_can_read(examined: Examined, paths: Paths) -> None:
    paths.create().logs.chmod(0o755)
    found = await examined()
    assert found["readable-by-others"].evidence == f"{paths.logs} has mode 755"


async def test_a_lock_that_another_process_holds(examined: Examined, paths: Paths) -> None:
    paths.create()
    holder = start_program(
        "import sys, pathlib; from foundry_api.storage.lock import FileLock\n"
        "with FileLock(pathlib.Path(sys.argv[1]), timeout_s=5):\n"
        "    print('held', flush=True); sys.stdin.read()",
        str(paths.lock_file),
        stdin=-1,
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        found = await examined()
        holder.communicate()
    assert wrong(found) == {"lock-held"}
    if sys.platform != "win32":
        assert f"process {holder.pid}" in found["lock-held"].evidence
    assert wrong(await examined()) == set()


async def test_an_engine_whose_state_is_lost(
    examined: Examined, shared_host: Callable[..., psutil.Process], paths: Paths
) -> None:
    process = shared_host(models=())
    paths.state_file.unlink()
    found = await examined()
    assert wrong(found) == {"leftover-host"}
    assert "no state file names it" in found["leftover-host"].evidence
    assert str(process.pid) in found["leftover-host"].remedy


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that stops a process")
async def test_an_engine_that_outlives_its_owner(examined: Examined, home: Path) -> None:
    """A host leaves with its owner, unless it cannot run."""
    owner = start_program(
        "import sys, time, pathlib; from foundry_api.storage.paths import Paths\n"
        "from foundry_api.engine.process import HostOptions, HostProcess\n"
        "options = HostOptions(paths=Paths.from_home(pathlib.Path(sys.argv[1])), models=())\n"
        "host = HostProcess.start_private(options); host.wait_ready()\n"
        "print(host.pid, flush=True); time.sleep(600)",
        str(home),
    )
    with owner:
        assert owner.stdout
        host = psutil.Process(int(owner.stdout.readline()))
        host.send_signal(signal.SIGSTOP)
        await wait_until_async(lambda: host.status() == psutil.STATUS_STOPPED)
        owner.kill()
        owner.wait()
        try:
            found = await examined()
        finally:
            host.kill()
            await wait_until_async(lambda: is_zombie(host))
    assert wrong(found) == {"leftover-host"}
    assert f"its owner, process {owner.pid}, is gone" in found["leftover-host"].evidence
    assert str(host.pid) in found["leftover-host"].remedy


# Settings, proxies


async def test_a_setting_that_cannot_be_used(examined: Examined) -> None:
    found = await examined(FOUNDRY_TIMEOUT="soon", FOUNDRY_RETRIES="3")
    assert wrong(found) == {"bad-setting"}
    assert found["bad-setting"].evidence == "FOUNDRY_TIMEOUT is 'soon'"
    assert "number of seconds" in found["bad-setting"].remedy


async def test_a_misspelt_setting(examined: Examined) -> None:
    found = await examined(FOUNDRY_TIMEOUTS="30")
    assert wrong(found) == {"misspelt-setting"}
    assert found["misspelt-setting"].remedy == "Rename it: FOUNDRY_TIMEOUT."


async def test_two_settings_that_name_the_service(examined: Examined) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    found = await examined(FOUNDRY_BASE_URL=dead, FOUNDRY_BASE_URLS=dead)
    assert wrong(found) == {"two-addresses", "dead-port"}


async def test_an_address_with_a_credential(examined: Examined) -> None:
    found = await examined(FOUNDRY_BASE_URL="http://me:geheim@127.0.0.1:9")
    assert wrong(found) == {"credential-in-url"}
    assert "geheim" not in str(found)


async def test_a_key_that_would_travel_in_the_clear_goes_nowhere(
    examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is one for documentation, and the test fails if it is connected to."""
    connected: list[object] = []
    monkeypatch.setattr(discovery, "probe_explicit", lambda *told: connected.append(told))
    url = "http://192.0.2.1:5273"
    found = await examined(FOUNDRY_BASE_URL=url, FOUNDRY_API_KEY="geheim")
    assert wrong(found) == {"key-in-the-clear"}
    assert url in found["key-in-the-clear"].evidence
    assert connected == []


async def test_a_proxy_that_takes_the_loopback_too(examined: Examined) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"http://me:geheim@127.0.0.1:{proxy.getsockname()[1]}"
        found = await examined(HTTP_PROXY=url, NO_PROXY="example.org")
        well = await examined(HTTP_PROXY=url, NO_PROXY="localhost,127.0.0.0/8")
    assert wrong(found) == {"proxy-for-loopback"}
    assert "NO_PROXY=example.org" in found["proxy-for-loopback"].evidence
    assert "geheim" not in str(found)
    assert wrong(well) == set()


async def test_a_proxy_that_is_not_there(examined: Examined) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = await examined(https_proxy=url)
    assert wrong(found) == {"dead-proxy"}
    assert found["dead-proxy"].evidence == f"https_proxy={url}, where nothing listens"


# Space


@pytest.fixture
def file_as_home(home: Path) -> Path:
    home.write_text("a file", encoding="utf-8")
    return home


async def test_a_home_that_cannot_be_used(examined: Examined, file_as_home: Path) -> None:
    """Permissions do not bind root; a file where a directory has to be stops everybody."""
    home = file_as_home
    found = await examined(quick=False)
    assert wrong(found) == {"home-unusable"}
    assert found["home-unusable"].evidence == f"{home} is not a directory"
    assert "FOUNDRY_HOME" in found["home-unusable"].remedy
    below = await examined(FOUNDRY_HOME=str(home / "below"))
    assert wrong(below) == {"home-unusable"}


@pytest.mark.parametrize(("free_bytes", "expected"), [(4 * GB, "disk-low"), (GB // 2, "disk-full")])
async def test_little_disk_space(examined: Examined, free_bytes: int, expected: str) -> None:
    found = await examined(probes={"disk_free": lambda _: free_bytes})
    assert wrong(found) == {expected}


async def test_little_memory(examined: Examined) -> None:
    found = await examined(probes={"memory_available": lambda: GB // 2})
    assert wrong(found) == {"memory-low"}


async def test_a_model_that_does_not_fit(
    examined: Examined, shared_host: Callable[..., psutil.Process]
) -> None:
    large = make_entity("large", "Large-generic-cpu")
    metadata = large["properties"]["variantInfo"]["variantMetadata"]
    metadata["fileSizeBytes"] = 20 * GB
    senses = {"disk_free": lambda _: 10 * GB, "memory_available": lambda: 8 * GB}
    with run_catalog([large]) as url:
        shared_host(catalog_url=url)
        found = await examined(quick=False, model="large", probes=senses)
    assert wrong(found) == {"model-exceeds-disk", "model-exceeds-memory"}
    assert "20.0 GB" in found["model-exceeds-disk"].evidence
    assert "foundry-api models pull large" in found["model-not-cached"].remedy


# Models and their catalog


async def test_a_catalog_that_cannot_be_reached(
    examined: Examined, shared_host: Callable[..., psutil.Process]
) -> None:
    shared_host(catalog_url=f"http://127.0.0.1:{free_port()}")
    found = await examined(quick=False)
    assert wrong(found) == {"catalog-unreachable"}
    assert "Could not connect to server" in found["catalog-unreachable"].evidence


async def test_a_catalog_that_is_empty_is_told_from_one_that_is_not_there(
    examined: Examined, shared_host: Callable[..., psutil.Process]
) -> None:
    with run_catalog([]) as url:
        shared_host(catalog_url=url)
        found = await examined(quick=False)
    assert wrong(found) == {"catalog-empty"}


async def test_a_model_that_nobody_can_look_up(
    examined: Examined, shared_host: Callable[..., psutil.Process]
) -> None:
    shared_host(catalog_url=f"http://127.0.0.1:{free_port()}")
    unasked = await examined(model="no-such")
    assert "was not queried" in unasked["model-not-known"].evidence
    unreachable = await examined(quick=False, model="no-such")
    assert "cannot be reached" in unreachable["model-not-known"].evidence


async def test_the_catalog_is_asked_through_an_own_engine_when_that_is_wanted(
    examined: Examined, home: Path
) -> None:
    with run_catalog([make_entity("phi-4-mini", "Phi-4-mini-instruct-generic-cpu", 4)]) as url:

        def options(paths: Paths) -> HostOptions:
            return HostOptions(paths=paths, catalog_url=url)

        found = await examined(online=True, model="no-such", probes={"host_options": options})
    assert "catalog-answers" in found
    assert wrong(found) == {"model-unknown"}
    assert not list_hosts(home)


async def test_registered_directories_that_vanished_or_changed(
    examined: Examined,
    shared_host: Callable[..., psutil.Process],
    paths: Paths,
    transport: HttpTransport,
    tmp_path: Path,
) -> None:
    shared_host()
    running = shared.find_endpoint(paths)
    assert running
    assert running.control
    control = ControlClient(transport, running.control)
    gone = make_model_directory(tmp_path / "gone")
    changed = make_model_directory(tmp_path / "changed")
    await control.register(gone, "gone")
    await control.register(changed, "changed")
    shutil.rmtree(gone)
    make_model_directory(changed, content="other weights")
    found = await examined()
    assert wrong(found) == {"registered-model-gone", "registered-model-changed"}
    assert str(gone) in found["registered-model-gone"].evidence
    assert "foundry-api models remove gone:1" in found["registered-model-gone"].remedy
    assert f"models register {changed} --alias changed" in found["registered-model-changed"].remedy


@pytest.mark.parametrize("damage", DAMAGED_REGISTRIES)
async def test_a_damaged_registry_is_told_once(
    examined: Examined, paths: Paths, damage: Callable[[Path], None]
) -> None:
    path = get_registry_path(paths.create())
    path.parent.mkdir(parents=True)
    damage(path)
    found = await examined(quick=False, model="mine")
    assert wrong(found) == {"registry-damaged"}
    assert f"Move {path} away" in found["registry-damaged"].remedy
    assert "check-failed" not in found


async def test_a_registry_that_is_damaged_under_a_shared_engine_is_told_once(
    examined: Examined, paths: Paths, shared_host: Callable[..., psutil.Process]
) -> None:
    process = shared_host(models=HostOptions(paths=paths).models)
    get_registry_path(paths).write_bytes(b"")
    found = await examined(quick=False, model="demo")
    assert wrong(found) == {"registry-damaged"}
    assert process.is_running()


async def test_a_model_that_the_shared_engine_could_not_register(
    examined: Examined, shared_host: Callable[..., psutil.Process], tmp_path: Path
) -> None:
    shared_host(models=(ModelSource(str(tmp_path / "none"), "mine"),))
    found = await examined()
    assert wrong(found) == {"model-not-registered"}
    assert "mine" in found["model-not-registered"].evidence


# The engine


async def test_an_engine_that_does_not_start(examined: Examined, tmp_path: Path) -> None:
    """The broken engine is a fake of the SDK's package, which the host imports instead."""
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "foundry_local_sdk.py").write_text(
        "import os; print('the engine says why', flush=True); os.abort()", encoding="utf-8"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "shim")}
    found = await examined(
        quick=False,
        probes={"host_options": lambda paths: HostOptions(paths=paths, environ=environ)},
    )
    assert wrong(found) == {"engine-does-not-start"}
    assert "the engine says why" in found["engine-does-not-start"].evidence
    assert ".log" in found["engine-does-not-start"].remedy
