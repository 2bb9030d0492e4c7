"""A service of another user of this machine is used only if its address is configured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.cli import main
from foundry_api.cli.doctor import services
from foundry_api.cli.doctor.context import DiagnosticContext, Probes
from foundry_api.engine import discovery
from foundry_api.engine.listener import find_other_user
from foundry_api.types.settings import Settings
from service.fakes import install_fake_foundry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from foundry_api.cli.doctor.finding import Finding
    from foundry_api.storage.paths import Paths
    from foundry_api.wire.http import HttpTransport

OTHER_UID = 65_533
linux_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="only root can start a process of another user",
)
SERVICE = """
import encodings.idna, json, os, sys  # before setuid: the other user may not read this Python
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/status"
        body = json.dumps({"endpoints": [], "modelCachePath": "/x", "pid": os.getpid()}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments): pass

os.setuid(int(sys.argv[1]))
server = HTTPServer((sys.argv[2], 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def run_service(uid: int, address: str = "127.0.0.1") -> Iterator[int]:
    """Run a service as a user and yield its port."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(uid), address], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def find_services(port: int) -> Sequence[Finding]:
    async with DiagnosticContext(Settings(), {}, probes=Probes(ports=(port,))) as machine:
        return list(await services.check_services(machine))


@linux_root
def test_status_and_doctor_report_a_skipped_service(
    own_home: Path,
    bare_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del own_home, bare_path
    with run_service(OTHER_UID) as port:
        monkeypatch.setattr(discovery, "KNOWN_PORTS", (port,))
        assert main(["status"]) == 0
        output = capsys.readouterr()
        assert output.out.startswith("No service is running.")
        assert f"another user of this machine (number {OTHER_UID}) listens there" in output.err
        [finding, *_] = asyncio.run(find_services(port))
        assert finding.id == "port-taken"
        assert f"(number {OTHER_UID}); calls skip it" in finding.evidence


@linux_root
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - in a test
async def test_a_service_of_another_user_is_skipped(
    paths: Paths,
    transport: HttpTransport,
    bare_path: Path,
    address: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with run_service(OTHER_UID, address) as port:
        url = f"http://127.0.0.1:{port}"
        settings = Settings()
        assert await discovery.find(settings, paths, lambda: transport, ports=[port]) is None
        install_fake_foundry(bare_path, service=f"print('is running on {url}')")
        assert await discovery.find(settings, paths, lambda: transport, ports=()) is None
        assert f"{url} is skipped: another user of this machine (number {OTHER_UID})" in (
            caplog.text
        )
        explicit = Settings(base_url=url)
        found = await discovery.find(explicit, paths, lambda: transport)
        assert found
        assert found.origin == "explicit"


@linux_root
async def test_a_service_of_root_or_of_this_user_is_used(
    paths: Paths, transport: HttpTransport, bare_path: Path
) -> None:
    assert bare_path
    with run_service(0) as port:
        found = await discovery.find(Settings(), paths, lambda: transport, ports=[port])
    assert found
    assert found.origin == "port"


@linux_root
def test_the_most_specific_listener_counts() -> None:
    """A listener at every address does not receive what goes to a listener at this address."""
    with run_service(OTHER_UID, "127.0.0.1") as port:
        assert find_other_user(f"http://127.0.0.1:{port}") == f"number {OTHER_UID}"
        assert find_other_user(f"http://localhost:{port}") == f"number {OTHER_UID}"
        assert find_other_user(f"http://127.0.0.2:{port}") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_own_listener_is_not_another_users(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        host = f"[{address}]" if ":" in address else address
        assert find_other_user(f"http://{host}:{listener.getsockname()[1]}") is None


def test_the_user_of_the_listening_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows and macOS."""
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(psutil.Process, "username", lambda process: f"HOST\\user-{process.pid}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert find_other_user(url) is None
        names = iter(["HOST\\me", "HOST\\mallory", "HOST\\me", "NT AUTHORITY\\SYSTEM"])
        monkeypatch.setattr(psutil.Process, "username", lambda _process: next(names))
        assert find_other_user(url) == "HOST\\mallory"
        assert find_other_user(url) is None


def test_a_service_of_an_unknown_user_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(psutil, "net_connections", denied)
    assert find_other_user("http://127.0.0.1:5273") is None
