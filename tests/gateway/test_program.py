"""`foundry-api serve` as a process: signals, changes of other processes, and a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from foundry_api.cli import main
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.testing import FakeService, Stall
from gateway.serving import CHAT, call, make_body
from gateway.shapes import parse_events
from gateway.tls import make_certificate
from support.cli_program import make_command, make_environment, run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

KEY = NewKey(name="a", tokens=(Limit(10**6, "d"),))
READY_S = 60


class Program:
    """A running gateway.

    Attributes:
        process: The process.
        http: Calls it.
    """

    def __init__(self, process: asyncio.subprocess.Process, http: aiohttp.ClientSession) -> None:
        self.process = process
        self.http = http

    async def read_line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), READY_S)).decode()

    @contextlib.asynccontextmanager
    async def stream(self, **body: Any) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Make a call that streams; enter the block after its first event."""
        body = {**make_body("say-hello", "fake"), "stream": True, **body}
        async with self.http.post(CHAT, json=body) as response:
            assert response.status == 200, await response.text()
            await response.content.readline()
            yield response

    async def wait_for_readiness(self, status: int) -> None:
        async with asyncio.timeout(READY_S):
            while (await self.get_readiness()) != status:  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.05)

    async def get_readiness(self) -> int:
        async with self.http.get("/readyz") as response:
            return response.status


@contextlib.asynccontextmanager
async def start(home: Path, base_url: str, *flags: str) -> AsyncGenerator[Program]:
    """Start a gateway with a key."""
    _, token = KeyDatabase(home / "gateway").create(KEY)
    process = await asyncio.create_subprocess_exec(
        *make_command("serve", "--port", "0", *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=make_environment(home, FOUNDRY_GATEWAY_BASE_URL=base_url, PYTHONUNBUFFERED="1"),
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().split()[2].removesuffix("/v1.")
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(url, headers=headers) as http:
            yield Program(process, http)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_p45_a_stream_ends_whole_after_sigterm(own_home: Path, engine: Endpoint) -> None:
    async with start(own_home, engine.base_url, "--drain", "60") as program:
        async with program.stream(**make_body("say-slowly"), max_tokens=12) as running:
            program.process.send_signal(signal.SIGTERM)
            assert (await program.read_line()).startswith("Stopping")
            assert await program.get_readiness() == 503
            async with program.http.get("/v1/models") as refused:
                assert refused.status == 503
            assert parse_events(await running.text())[-1] == "[DONE]"
        assert await asyncio.wait_for(program.process.wait(), READY_S) == 0


async def test_p45_further_signals_do_not_break_off_the_end(own_home: Path) -> None:
    async with FakeService() as upstream, start(own_home, upstream.base_url) as program:
        assert (await call(program.http, make_body("say-hello", "fake")))[0] == 200
        while program.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                program.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.002)
    audit = (own_home / "gateway" / "audit.jsonl").read_text(encoding="utf-8")
    assert json.loads(audit.splitlines()[-1])["event"] == "gateway.stop"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_p45_a_second_signal_ends_the_calls_at_once(
    own_home: Path, second: signal.Signals
) -> None:
    # The limit is longer than the time-out of the test.
    async with (
        FakeService(Stall("A word")) as upstream,
        start(own_home, upstream.base_url, "--drain", "3600") as program,
    ):
        async with program.stream() as running:
            program.process.send_signal(signal.SIGTERM)
            assert (await program.read_line()).startswith("Stopping")
            program.process.send_signal(second)
            assert parse_events(await running.text())[-1]["error"]["code"] == "shutting_down"
        assert await asyncio.wait_for(program.process.wait(), READY_S) == 0


async def test_p45_the_limit_of_the_drain_ends_the_calls(own_home: Path) -> None:
    async with (
        FakeService(Stall("A word")) as upstream,
        start(own_home, upstream.base_url, "--drain", "0.5") as program,
    ):
        async with program.stream() as running:
            program.process.send_signal(signal.SIGTERM)
            assert parse_events(await running.text())[-1]["error"]["code"] == "shutting_down"
        assert await asyncio.wait_for(program.process.wait(), READY_S) == 0


async def test_sighup_cuts_no_stream(own_home: Path, engine: Endpoint) -> None:
    async with (
        start(own_home, engine.base_url) as program,
        program.stream(**make_body("say-slowly"), max_tokens=12) as running,
    ):
        for _ in range(2):
            program.process.send_signal(signal.SIGHUP)
            assert await program.read_line() == "Reloaded keys and TLS files.\n"
        assert parse_events(await running.text())[-1] == "[DONE]"


async def test_the_streams_of_a_key_end_that_another_process_revokes(own_home: Path) -> None:
    async with (
        FakeService(Stall("A word")) as upstream,
        start(own_home, upstream.base_url) as program,
    ):
        async with program.stream() as running:
            await asyncio.to_thread(run, "keys", "revoke", "a", home=own_home)
            assert parse_events(await running.text())[-1]["error"]["code"] == "invalid_api_key"
        assert (await call(program.http, make_body("say-hello")))[0] == 401


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
@pytest.mark.usefixtures("no_bytecode")
async def test_a_full_disk_does_not_stop_serving(own_home: Path) -> None:
    import resource  # noqa: PLC0415 - POSIX only

    async with FakeService() as upstream, start(own_home, upstream.base_url) as program:
        body = make_body("say-hello", "fake")
        assert (await call(program.http, body))[0] == 200
        await program.wait_for_readiness(200)
        before = resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE)
        # No file of the process may grow, or be written beyond its first byte.
        resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (1, before[1]))
        assert (await call(program.http, body))[0] == 200
        await program.wait_for_readiness(503)
        assert (await call(program.http, body))[0] == 200
        resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, before)
        await program.wait_for_readiness(200)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
async def test_the_limit_of_open_files_is_raised(own_home: Path) -> None:
    import resource  # noqa: PLC0415 - POSIX only

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))  # which the program inherits
    try:
        async with FakeService() as upstream, start(own_home, upstream.base_url) as program:
            limit = resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert limit > 512


async def test_status_shows_the_gateway_while_it_runs(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def read_status(*flags: str) -> str:
        assert await asyncio.to_thread(main, ["status", *flags]) == 0
        return capsys.readouterr().out

    async with FakeService() as upstream, start(own_home, upstream.base_url) as program:
        found = json.loads(await read_status("--json"))["gateway"]
        assert found["pid"] == program.process.pid
        async with program.http.get(f"{found['url']}/healthz") as response:
            assert response.status == 200
        assert f"Gateway at {found['url']}  running" in await read_status()
    # It was killed, so its file is still there.
    assert (own_home / "gateway" / "gateway.json").exists()
    assert json.loads(await read_status("--json"))["gateway"] is None


async def test_serving_caches_no_answers(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_CACHE", "memory")
    async with FakeService() as upstream, start(own_home, upstream.base_url) as program:
        for _ in range(2):
            body = make_body("say-hello", "fake", temperature=0)
            assert (await call(program.http, body))[0] == 200
        assert len(upstream.requests) == 2


def test_a_key_of_tls_with_a_password_is_refused(own_home: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    secret = tmp_path / "secret.key"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", key, "-out", secret]
    subprocess.run(command, check=True, capture_output=True)
    flags = ("--tls-cert", str(certificate), "--tls-key", str(secret))
    refused = run("serve", "--check", *flags, home=own_home, stdin="x\n")
    assert refused.returncode == 2
    assert f"the TLS key {secret} cannot be used: it is encrypted" in refused.stderr


UVLOOP = """
import asyncio

class Loop(asyncio.SelectorEventLoop):
    pass

new_event_loop = Loop
"""
VALID = "The configuration is valid."


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (UVLOOP, f"{VALID} The event loop is that of uvloop."),
        ("raise ImportError", VALID),
    ],
    ids=["installed", "absent"],
)
def test_uvloop_is_used_where_it_is_installed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    line: str,
) -> None:
    (tmp_path / "uvloop.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "uvloop", raising=False)
    assert main(["serve", "--check"]) == 0
    assert capsys.readouterr().out.splitlines() == [line]
    sys.modules.pop("uvloop", None)
