"""The doctor's findings with real faults: on sockets, in files and in processes.

Two probes are injected, as a test cannot fill the disk or the memory of the machine: their free
space. All other checks examine the real machine.
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
    has_ended,
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
FAKE_CLI_SERVICES = {"legacy": FakeLegacyService, "cli-0.10": FakeCli010Service}
Diagnose = Callable[..., Awaitable[dict[str, Finding]]]


@pytest.fixture
def bin_directory(tmp_path: Path) -> Path:
    """The only directory on the PATH of `diagnose`."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


@pytest.fixture
def diagnose(home: Path, bin_directory: Path) -> Diagnose:
    """Return a function that runs the checks of the doctor and returns the findings by id.

    It starts no engine by default and probes only the ports that a test passes. It ignores hosts
    of other tests.
    """

    async def diagnose(
        *,
        quick: bool = True,
        online: bool = False,
        model: str | None = None,
        probes: dict[str, object] | None = None,
        **variables: str,
    ) -> dict[str, Finding]:
        environ = {"FOUNDRY_HOME": str(home), "PATH": str(bin_directory), **variables}
        ample_resources = {
            "disk_free": lambda _: 100 * GB,
            "memory_available": lambda: 32 * GB,
            "ports": (),
        }
        context = DiagnosticContext(
            make_usable_settings(environ),
            environ,
            quick=quick,
            online=online,
            model=model,
            probes=Probes(**{**ample_resources, **(probes or {})}),  # type: ignore[arg-type] # passed by the test
        )
        async with context:
            findings = await run_checks(context)
        findings = [f for f in findings if f.id != "leftover-host" or str(home) in f.evidence]
        assert all(finding.evidence and finding.group for finding in findings)
        assert all(f.remedy for f in findings if f.level in {"warning", "problem"})
        return {finding.id: finding for finding in findings}

    return diagnose


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "KNOWN_TIMEOUT_S", 0.4)


@pytest.fixture
def shared_host(paths: Paths) -> Iterator[Callable[..., psutil.Process]]:
    """Return a function that starts a shared engine and returns its process."""
    started: list[psutil.Process] = []

    def start(**options: object) -> psutil.Process:
        host_options = HostOptions(paths=paths, **options)  # type: ignore[arg-type] # passed by the test
        endpoint, _ = shared.start(paths, idle_timeout_s=120, options=host_options)
        assert endpoint.pid
        started.append(psutil.Process(endpoint.pid))
        return started[-1]

    yield start
    for process in started:
        if process.is_running():
            process.kill()
            wait_until(lambda process=process: has_ended(process))


def get_problems(findings: dict[str, Finding], *, ignore: frozenset[str] = frozenset()) -> set[str]:
    return {
        finding.id for finding in findings.values() if finding.level in {"warning", "problem"}
    } - ignore


# A healthy machine


async def test_a_healthy_machine_has_no_problems(diagnose: Diagnose, home: Path) -> None:
    found = await diagnose(quick=False)
    assert get_problems(found) == set()
    assert {"engine-starts", "demo-answers", "loopback-open", "home-usable"} <= found.keys()
    assert not list_hosts(home)


async def test_a_healthy_machine_with_shared_engine_and_cli(
    diagnose: Diagnose,
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
        status = {"running": True, "webUrls": [running.base_url]}
        install_fake_foundry(
            bin_directory, server=f"print('{json.dumps(status)}')", version="0.10.3"
        )
        found = await diagnose(quick=False)
    assert get_problems(found, ignore=frozenset({"cli-slow"})) == set()
    assert running.base_url in found["service-found"].evidence
    assert "0.10.3 (0.10" in found["cli-found"].evidence
    assert found["registered-models"].evidence == "mine:1"
    assert "1 variants" in found["catalog-answers"].evidence
    assert found["model-not-cached"].level == "note"


# URLs and ports


async def test_dead_port(diagnose: Diagnose) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = await diagnose(FOUNDRY_BASE_URL=url)
    assert get_problems(found) == {"dead-port"}
    assert url in found["dead-port"].evidence
    assert "FOUNDRY_BASE_URL" in found["dead-port"].remedy


async def test_each_of_several_urls_is_checked(diagnose: Diagnose) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with run_fake_server(make_service_routes("sdk-2.1")) as live_url:
        found = await diagnose(FOUNDRY_BASE_URLS=f"{live_url},{dead}")
    assert dead in found["dead-port"].evidence
    assert live_url in found["service-found"].evidence


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog is refused elsewhere")
async def test_address_that_drops_packets(diagnose: Diagnose) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        with socket.create_connection(address):  # it fills the backlog and is never accepted
            url = f"http://127.0.0.1:{address[1]}"
            found = await diagnose(FOUNDRY_BASE_URL=url, FOUNDRY_CONNECT_TIMEOUT="0.3")
    assert get_problems(found) == {"unreachable-address"}
    assert "0.3 s" in found["unreachable-address"].evidence


async def test_silent_port(diagnose: Diagnose, short_timeout: None) -> None:
    with run_silent_server() as url:
        found = await diagnose(FOUNDRY_BASE_URL=url)
    assert get_problems(found) == {"silent-port"}
    assert url in found["silent-port"].evidence


async def test_foreign_server(diagnose: Diagnose) -> None:
    async with run_fake_server({"/": "welcome"}) as url:
        found = await diagnose(FOUNDRY_BASE_URL=url)
    assert get_problems(found) == {"foreign-server"}
    assert url in found["foreign-server"].evidence


async def test_service_that_rejects_the_credential(diagnose: Diagnose) -> None:
    async with run_fake_server({}, missing=401) as url:
        found = await diagnose(FOUNDRY_BASE_URL=url, FOUNDRY_API_KEY="wrong")
    assert get_problems(found) == {"credential-refused"}
    assert "FOUNDRY_API_KEY" in found["credential-refused"].remedy


@pytest.mark.parametrize("generation", ["legacy", "cli-0.10", "sdk-2.0", "sdk-2.1"])
async def test_unsupported_generation(diagnose: Diagnose, generation: str) -> None:
    """The doctor and the client agree on which generations are supported."""
    async with run_fake_service(generation) as url:
        found = await diagnose(FOUNDRY_BASE_URL=url)
        supported = await is_supported(url)
    assert ("unsupported-generation" in found) is not supported
    finding = found["service-found" if supported else "unsupported-generation"]
    assert generation in finding.evidence


@contextlib.asynccontextmanager
async def run_fake_service(generation: str) -> AsyncIterator[str]:
    """Run a fake service of a generation; yield its URL."""
    if generation in FAKE_CLI_SERVICES:
        async with FAKE_CLI_SERVICES[generation]() as fake:
            yield fake.base_url
    else:
        async with run_fake_server(make_service_routes(generation)) as url:
            yield url


async def is_supported(url: str) -> bool:
    async with FoundryAPIClient(base_url=url, max_retries=0) as client:
        try:
            await client.health_check()
        except UnsupportedFeature:
            return False
    return True


async def test_known_port_taken_by_another_program(diagnose: Diagnose) -> None:
    async with run_fake_server({"/": "welcome"}) as url:
        port = int(url.rpartition(":")[2])
        found = await diagnose(probes={"ports": (port, free_port())})
    assert get_problems(found) == {"port-taken"}
    assert f"pid {os.getpid()}" in found["port-taken"].evidence
    assert str(port) in found["port-taken"].remedy


async def test_shared_engine_that_hangs(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process], short_timeout: None
) -> None:
    process = shared_host(models=())
    process.suspend()
    if os.name == "posix":  # elsewhere it has happened when the call returns
        await wait_until_async(lambda: process.status() == psutil.STATUS_STOPPED)
    found = await diagnose()
    assert get_problems(found) == {"shared-host-silent"}
    assert str(process.pid) in found["shared-host-silent"].evidence


# The `foundry` command


async def test_command_that_hangs(diagnose: Diagnose, bin_directory: Path) -> None:
    install_fake_foundry(bin_directory, server="time.sleep(600)", service="time.sleep(600)")
    found = await diagnose(probes={"command_timeout_s": 0.5})
    assert get_problems(found) == {"cli-hangs"}
    assert "500 ms" in found["cli-hangs"].evidence


@pytest.mark.parametrize("generation", ["0.10", "0.8"])
async def test_command_that_reports_a_dead_url(
    diagnose: Diagnose, bin_directory: Path, generation: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    if generation == "0.10":
        status = json.dumps({"running": True, "state": "ready", "webUrls": [url]})
        install_fake_foundry(bin_directory, server=f"print('{status}')")
    else:
        line = f"Model management service is running on {url}/openai/status"
        install_fake_foundry(bin_directory, service=f"print('{line}')")
    found = await diagnose()
    assert get_problems(found, ignore=frozenset({"cli-slow"})) == {"cli-announces-dead"}
    assert url in found["cli-announces-dead"].evidence
    restart = "foundry server restart" if generation == "0.10" else "foundry service restart"
    assert restart in found["cli-announces-dead"].remedy


async def test_command_that_denies_its_running_service(
    diagnose: Diagnose, bin_directory: Path
) -> None:
    async with run_fake_service("cli-0.10") as url:
        status = json.dumps({"running": False, "state": "not_running", "webUrls": [url]})
        install_fake_foundry(bin_directory, server=f"print('{status}')")
        found = await diagnose()
    assert "cli-denies-running" in get_problems(found)
    assert url in found["cli-denies-running"].evidence


async def test_command_that_denies_a_service_at_a_known_port(
    diagnose: Diagnose, bin_directory: Path
) -> None:
    stopped = "Model management service is not running!"
    install_fake_foundry(bin_directory, service=f"print('{stopped}')", version="0.8.101")
    async with run_fake_service("legacy") as url:
        found = await diagnose(probes={"ports": (int(url.rpartition(":")[2]),)})
    assert url in found["cli-denies-running"].evidence


async def test_several_commands_on_the_path(
    diagnose: Diagnose, bin_directory: Path, tmp_path: Path
) -> None:
    line = "print('Model management service is not running!')"
    other = tmp_path / "other"
    for directory in (bin_directory, other):
        install_fake_foundry(directory, service=line)
    path = os.pathsep.join(map(str, (bin_directory, other)))
    found = await diagnose(PATH=path)
    assert get_problems(found, ignore=frozenset({"cli-slow"})) == {"several-cli"}
    assert str(other) in found["several-cli"].evidence


async def test_command_that_fails(diagnose: Diagnose, bin_directory: Path) -> None:
    install_fake_foundry(bin_directory)
    found = await diagnose()
    assert get_problems(found) == {"cli-fails"}


async def test_command_slower_than_the_timeout_of_calls(
    diagnose: Diagnose, bin_directory: Path
) -> None:
    delay = foundry_command.TIMEOUT_S
    install_fake_foundry(
        bin_directory, service=f"time.sleep({delay}); print('service is not running!')"
    )
    found = await diagnose()
    assert get_problems(found) == {"cli-slow"}


# State files and leftover processes


async def test_state_of_a_killed_engine(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process], paths: Paths
) -> None:
    process = shared_host(models=())
    process.kill()
    await wait_until_async(lambda: has_ended(process))
    found = await diagnose()
    assert get_problems(found) == {"stale-state"}
    assert str(process.pid) in found["stale-state"].evidence
    assert str(paths.state_file) in found["stale-state"].evidence
    shared.stop(paths)  # the remedy
    assert get_problems(await diagnose()) == set()


async def test_damaged_state(diagnose: Diagnose, paths: Paths) -> None:
    paths.create().state_file.write_text('{"type": "ready", "url"', encoding="utf-8")
    paths.state_file.chmod(0o600)
    found = await diagnose()
    assert get_problems(found) == {"corrupt-state"}
    shared.stop(paths)  # the remedy
    assert get_problems(await diagnose()) == set()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
async def test_state_readable_by_others(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process], paths: Paths
) -> None:
    shared_host(models=())
    paths.state_file.chmod(0o644)
    found = await diagnose()
    assert get_problems(found) == {"readable-by-others"}
    assert found["readable-by-others"].evidence == f"{paths.state_file} has mode 644"
    assert f"chmod 600 {paths.state_file}" in found["readable-by-others"].remedy


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
async def test_directory_readable_by_others(diagnose: Diagnose, paths: Paths) -> None:
    paths.create().logs.chmod(0o755)
    found = await diagnose()
    assert found["readable-by-others"].evidence == f"{paths.logs} has mode 755"


async def test_lock_held_by_another_process(diagnose: Diagnose, paths: Paths) -> None:
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
        found = await diagnose()
        holder.communicate()
    assert get_problems(found) == {"lock-held"}
    if sys.platform != "win32":
        assert f"process {holder.pid}" in found["lock-held"].evidence
    assert get_problems(await diagnose()) == set()


async def test_engine_without_a_state_file(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process], paths: Paths
) -> None:
    process = shared_host(models=())
    paths.state_file.unlink()
    found = await diagnose()
    assert get_problems(found) == {"leftover-host"}
    assert "no state file names it" in found["leftover-host"].evidence
    assert str(process.pid) in found["leftover-host"].remedy


@pytest.mark.skipif(os.name != "posix", reason="the launcher of the test is a script")
async def test_launcher_of_an_engine_is_not_left_over(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process], tmp_path: Path
) -> None:
    """The python.exe of a virtual environment on Windows: the same arguments, another process."""
    launcher = tmp_path / "python"
    launcher.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        "sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)\n",
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    host = shared_host(models=(), python=str(launcher))
    parent = host.parent()
    assert parent
    assert str(launcher) in parent.cmdline()
    found = await diagnose()
    host.kill()
    await wait_until_async(lambda: has_ended(parent))
    assert get_problems(found) == set()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal that stops a process")
async def test_engine_that_outlives_its_owner(diagnose: Diagnose, home: Path) -> None:
    """A host exits with its owner, unless it is suspended."""
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
            found = await diagnose()
        finally:
            host.kill()
            await wait_until_async(lambda: has_ended(host))
    assert get_problems(found) == {"leftover-host"}
    assert f"its owner, process {owner.pid}, is gone" in found["leftover-host"].evidence
    assert str(host.pid) in found["leftover-host"].remedy


# Settings and proxies


async def test_invalid_setting(diagnose: Diagnose) -> None:
    found = await diagnose(FOUNDRY_TIMEOUT="soon", FOUNDRY_RETRIES="3")
    assert get_problems(found) == {"bad-setting"}
    assert found["bad-setting"].evidence == "FOUNDRY_TIMEOUT is 'soon'"
    assert "number of seconds" in found["bad-setting"].remedy


def write_settings(home: Path, text: str) -> None:
    home.mkdir()
    (home / "config.toml").write_text(text, encoding="utf-8")


async def test_invalid_settings_file(diagnose: Diagnose, home: Path) -> None:
    write_settings(home, "timeout = 'soon'\n")
    found = await diagnose()
    assert get_problems(found) == {"bad-setting"}
    assert found["bad-setting"].evidence == f"{home / 'config.toml'}: timeout is 'soon'"
    assert "foundry-api config edit" in found["bad-setting"].remedy


async def test_misspelt_setting(diagnose: Diagnose) -> None:
    found = await diagnose(FOUNDRY_TIMEOUTS="30")
    assert get_problems(found) == {"misspelt-setting"}
    assert found["misspelt-setting"].remedy == "Rename it: FOUNDRY_TIMEOUT."


async def test_two_settings_for_the_url(diagnose: Diagnose) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    found = await diagnose(FOUNDRY_BASE_URL=dead, FOUNDRY_BASE_URLS=dead)
    assert get_problems(found) == {"two-addresses", "dead-port"}


async def test_url_with_a_credential(diagnose: Diagnose) -> None:
    found = await diagnose(FOUNDRY_BASE_URL="http://me:geheim@127.0.0.1:9")
    assert get_problems(found) == {"credential-in-url"}
    assert "geheim" not in str(found)


async def test_no_key_is_sent_over_plain_http(
    diagnose: Diagnose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is reserved for documentation; the test fails if the doctor connects."""
    connected: list[object] = []
    monkeypatch.setattr(discovery, "probe_explicit", lambda *address: connected.append(address))
    url = "http://192.0.2.1:5273"
    found = await diagnose(FOUNDRY_BASE_URL=url, FOUNDRY_API_KEY="geheim")
    assert get_problems(found) == {"key-in-the-clear"}
    assert url in found["key-in-the-clear"].evidence
    assert connected == []


async def test_proxy_for_the_loopback(diagnose: Diagnose) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"http://me:geheim@127.0.0.1:{proxy.getsockname()[1]}"
        found = await diagnose(HTTP_PROXY=url, NO_PROXY="example.org")
        excluded = await diagnose(HTTP_PROXY=url, NO_PROXY="localhost,127.0.0.0/8")
    assert get_problems(found) == {"proxy-for-loopback"}
    assert "NO_PROXY=example.org" in found["proxy-for-loopback"].evidence
    assert "geheim" not in str(found)
    assert get_problems(excluded) == set()


async def test_dead_proxy(diagnose: Diagnose) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    found = await diagnose(https_proxy=url)
    assert get_problems(found) == {"dead-proxy"}
    assert found["dead-proxy"].evidence == f"https_proxy={url}, where nothing listens"


# Disk and memory


@pytest.fixture
def file_as_home(home: Path) -> Path:
    home.write_text("a file", encoding="utf-8")
    return home


async def test_unusable_home(diagnose: Diagnose, file_as_home: Path) -> None:
    """A file in place of a directory also fails for root, unlike permissions."""
    home = file_as_home
    found = await diagnose(quick=False)
    assert get_problems(found) == {"home-unusable"}
    assert found["home-unusable"].evidence == f"{home} is not a directory"
    assert "FOUNDRY_HOME" in found["home-unusable"].remedy
    below = await diagnose(FOUNDRY_HOME=str(home / "below"))
    assert get_problems(below) == {"home-unusable"}


@pytest.mark.parametrize(("free_bytes", "expected"), [(4 * GB, "disk-low"), (GB // 2, "disk-full")])
async def test_little_disk_space(diagnose: Diagnose, free_bytes: int, expected: str) -> None:
    found = await diagnose(probes={"disk_free": lambda _: free_bytes})
    assert get_problems(found) == {expected}


async def test_little_memory(diagnose: Diagnose) -> None:
    found = await diagnose(probes={"memory_available": lambda: GB // 2})
    assert get_problems(found) == {"memory-low"}


async def test_model_that_does_not_fit(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process]
) -> None:
    large = make_entity("large", "Large-generic-cpu")
    metadata = large["properties"]["variantInfo"]["variantMetadata"]
    metadata["fileSizeBytes"] = 20 * GB
    probes = {"disk_free": lambda _: 10 * GB, "memory_available": lambda: 8 * GB}
    with run_catalog([large]) as url:
        shared_host(catalog_url=url)
        found = await diagnose(quick=False, model="large", probes=probes)
    assert get_problems(found) == {"model-exceeds-disk", "model-exceeds-memory"}
    assert "20.0 GB" in found["model-exceeds-disk"].evidence
    assert "foundry-api models pull large" in found["model-not-cached"].remedy


# Models and the catalog


async def test_unreachable_catalog(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process]
) -> None:
    shared_host(catalog_url=f"http://127.0.0.1:{free_port()}")
    found = await diagnose(quick=False)
    assert get_problems(found) == {"catalog-unreachable"}
    assert "Could not connect to server" in found["catalog-unreachable"].evidence


async def test_empty_catalog(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process]
) -> None:
    with run_catalog([]) as url:
        shared_host(catalog_url=url)
        found = await diagnose(quick=False)
    assert get_problems(found) == {"catalog-empty"}


async def test_model_that_cannot_be_looked_up(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process]
) -> None:
    shared_host(catalog_url=f"http://127.0.0.1:{free_port()}")
    not_queried = await diagnose(model="no-such")
    assert "was not queried" in not_queried["model-not-known"].evidence
    unreachable = await diagnose(quick=False, model="no-such")
    assert "cannot be reached" in unreachable["model-not-known"].evidence


async def test_online_queries_the_catalog_with_an_own_engine(
    diagnose: Diagnose, home: Path
) -> None:
    with run_catalog([make_entity("phi-4-mini", "Phi-4-mini-instruct-generic-cpu", 4)]) as url:

        def options(paths: Paths) -> HostOptions:
            return HostOptions(paths=paths, catalog_url=url)

        found = await diagnose(online=True, model="no-such", probes={"host_options": options})
    assert "catalog-answers" in found
    assert get_problems(found) == {"model-unknown"}
    assert not list_hosts(home)


async def test_deleted_and_changed_registered_directories(
    diagnose: Diagnose,
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
    deleted = make_model_directory(tmp_path / "gone")
    changed = make_model_directory(tmp_path / "changed")
    await control.register(deleted, "gone")
    await control.register(changed, "changed")
    shutil.rmtree(deleted)
    make_model_directory(changed, content="other weights")
    found = await diagnose()
    assert get_problems(found) == {"registered-model-gone", "registered-model-changed"}
    assert str(deleted) in found["registered-model-gone"].evidence
    assert "foundry-api models remove gone:1" in found["registered-model-gone"].remedy
    assert f"models register {changed} --alias changed" in found["registered-model-changed"].remedy


@pytest.mark.parametrize("damage", DAMAGED_REGISTRIES)
async def test_damaged_registry_is_reported_once(
    diagnose: Diagnose, paths: Paths, damage: Callable[[Path], None]
) -> None:
    path = get_registry_path(paths.create())
    path.parent.mkdir(parents=True)
    damage(path)
    found = await diagnose(quick=False, model="mine")
    assert get_problems(found) == {"registry-damaged"}
    assert f"Move {path} away" in found["registry-damaged"].remedy
    assert "check-failed" not in found


async def test_registry_damaged_after_the_start_is_reported_once(
    diagnose: Diagnose, paths: Paths, shared_host: Callable[..., psutil.Process]
) -> None:
    process = shared_host(models=HostOptions(paths=paths).models)
    get_registry_path(paths).write_bytes(b"")
    found = await diagnose(quick=False, model="demo")
    assert get_problems(found) == {"registry-damaged"}
    assert process.is_running()


async def test_model_that_the_shared_engine_could_not_register(
    diagnose: Diagnose, shared_host: Callable[..., psutil.Process], tmp_path: Path
) -> None:
    shared_host(models=(ModelSource(str(tmp_path / "none"), "mine"),))
    found = await diagnose()
    assert get_problems(found) == {"model-not-registered"}
    assert "mine" in found["model-not-registered"].evidence


# The engine


async def test_engine_that_does_not_start(diagnose: Diagnose, tmp_path: Path) -> None:
    """The host imports a fake SDK package that aborts."""
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "foundry_local_sdk.py").write_text(
        "import os; print('the engine says why', flush=True); os.abort()", encoding="utf-8"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "shim")}
    found = await diagnose(
        quick=False,
        probes={"host_options": lambda paths: HostOptions(paths=paths, environ=environ)},
    )
    assert get_problems(found) == {"engine-does-not-start"}
    assert "the engine says why" in found["engine-does-not-start"].evidence
    assert ".log" in found["engine-does-not-start"].remedy
