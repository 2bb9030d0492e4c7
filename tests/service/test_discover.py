"""Finding a service on this machine."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api.engine import discovery, foundry_command, shared, state
from foundry_api.engine.handshake import HostReady
from foundry_api.types.errors import ConfigurationError, ProtocolError, ServiceNotRunning
from foundry_api.types.settings import Settings
from service.fakes import (
    free_port,
    install_fake_foundry,
    make_service_routes,
    run_fake_server,
    run_silent_server,
)
from service.helpers import start_program
from support.fakes.fake_cli010 import FakeCli010Service
from support.fakes.fake_legacy import FakeLegacyService
from support.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.storage.paths import Paths
    from foundry_api.wire.http import HttpTransport
    from foundry_api.wire.transport import Request, Response, Transport
    from support.fakes.fake_sdk1_server import FakeKestrelServer

    Find = Callable[..., Awaitable[Endpoint | None]]


pytestmark = pytest.mark.usefixtures("bare_path")


@pytest.fixture
def find(paths: Paths, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> Find:
    async def find(
        *urls: str, settings: Settings | None = None, timeout_s: float = 30.0
    ) -> Endpoint | None:
        """Search. Within its time limit, a service answers also on a busy machine."""
        monkeypatch.setitem(discovery.probe.__kwdefaults__, "timeout_s", timeout_s)
        ports = [int(url.rpartition(":")[2]) for url in urls]
        return await discovery.find(settings or Settings(), paths, lambda: transport, ports=ports)

    return find


def never() -> Transport:
    pytest.fail("nothing accepted a connection, so no request may be sent")


def print_server_status(url: str) -> str:
    return f"print({json.dumps(json.dumps({'running': True, 'state': 'ready', 'webUrls': [url]}))})"


def write_shared_state(paths: Paths, url: str, pid: int) -> None:
    state.write_state(
        paths.create().state_file,
        HostReady(
            url=url,
            pid=pid,
            control_url="http://127.0.0.1:1",
            token="secret",  # noqa: S106 - not one
            service_generation="sdk-2.1",
            sdk_version="2.2.1",
            log_path="log",
            started_at=1.0,
            create_time=state.get_own_create_time(),
        ),
    )


def test_without_a_service_the_search_waits_for_no_answer(paths: Paths) -> None:
    ports = [free_port() for _ in range(3)]
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(discovery.find(Settings(), paths, never, ports=ports)) is None
        # On the virtual clock, a connection takes all of its time limit.
        assert runner.get_loop().time() <= discovery.RESPONSE_TIMEOUT_S / 3


def test_without_a_service_no_http_library_is_imported(home: Path) -> None:
    source = (
        "import asyncio, sys; from pathlib import Path\n"
        "from foundry_api.engine import discovery; from foundry_api.storage.paths import Paths\n"
        "from foundry_api.types.settings import Settings\n"
        "paths = Paths.from_home(Path(sys.argv[1]))\n"
        "found = asyncio.run(discovery.find(Settings(), paths, lambda: 1 / 0, ports=()))\n"
        "print(found, 'aiohttp' in sys.modules)"
    )
    with start_program(source, str(home)) as program:
        output, errors = program.communicate(timeout=30)
    assert (output.split(), errors) == (["None", "False"], "")


async def test_a_search_ends_if_everything_hangs(find: Find, bare_path: Path) -> None:
    install_fake_foundry(bare_path, server="time.sleep(600)", service="time.sleep(600)")
    with run_silent_server() as silent, run_silent_server() as other:
        assert await find(silent, other, timeout_s=0.3) is None  # within the time limit of a test
    assert not [
        process
        for process in psutil.Process().children(recursive=True)
        if "install_fake_foundry" in " ".join(process.cmdline())
    ]


@pytest.mark.parametrize("generation", ["sdk-2.1", "sdk-2.0"])
async def test_a_service_at_a_known_port_is_found(find: Find, generation: str) -> None:
    async with run_fake_server(make_service_routes(generation)) as url:
        found = await find(f"http://127.0.0.1:{free_port()}", url)
    assert found
    assert (found.base_url, found.service_generation, found.origin) == (url, generation, "port")
    assert found.control is None


@pytest.mark.parametrize(
    ("fake", "generation"),
    [(FakeLegacyService, "legacy"), (FakeCli010Service, "cli-0.10")],
)
async def test_a_service_of_foundry_at_a_known_port_is_found(
    find: Find, fake: type[FakeKestrelServer], generation: str
) -> None:
    async with fake() as service:
        found = await find(service.base_url)
    assert found
    assert (found.service_generation, found.origin) == (generation, "port")


async def test_foreign_and_silent_servers_are_skipped(find: Find) -> None:
    with run_silent_server() as silent:
        async with (
            run_fake_server({"/": "hello"}) as foreign,
            run_fake_server(make_service_routes("sdk-2.1")) as url,
        ):
            found = await find(foreign, silent, url, timeout_s=3.0)
            assert found
            assert found.base_url == url
            assert await find(foreign) is None


async def test_the_first_port_wins_not_the_fastest(find: Find) -> None:
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(
            run_fake_server(make_service_routes("sdk-2.0"), 0.05)
        )
        fast = await stack.enter_async_context(run_fake_server(make_service_routes("sdk-2.0")))
        found = await find(slow, fast)
        assert found
        assert found.base_url == slow


@pytest.mark.parametrize(
    "output",
    [
        '{"running":true,"state":"ready","webUrls":["@"],"port":1,"pid":2}',
        '{"running":false,"state":"not_running","webUrls":["@"]}',
        'warning: slow disk\\n| Connecting...\\n{"running":true,"webUrls":["http://127.0.0.1:9","@"]}',
        '{"running":true,"webUrls":["@"]}\\nDone.',
        "State    Ready\\nPID      29056\\nWeb URLs @\\n",
    ],
)
async def test_the_address_in_foundry_server_status_is_found(
    find: Find, bare_path: Path, output: str
) -> None:
    async with FakeCli010Service() as fake:
        url = fake.base_url
        install_fake_foundry(bare_path, server=f"print('{output.replace('@', url)}')")
        found = await find()
    assert found
    assert (found.base_url, found.service_generation, found.origin) == (url, "cli-0.10", "cli")


async def test_the_address_in_foundry_service_status_is_found(find: Find, bare_path: Path) -> None:
    async with FakeLegacyService() as fake:
        url = fake.base_url
        message = f"\\U0001f7e2 Model management service is running on {url}/openai/status"
        install_fake_foundry(bare_path, service=f"print('{message}')")
        found = await find()
    assert found
    assert (found.base_url, found.service_generation, found.origin) == (url, "legacy", "cli")


@pytest.mark.parametrize(
    "output",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"webUrls": null}',
        '{"webUrls": 7}',
        '{"webUrls": ["nonsense", 7, "http://[", "ftp://127.0.0.1:1"]}',
        "not running!\\nTo start the service, run the following command: foundry service start",
    ],
)
async def test_invalid_output_has_no_address(bare_path: Path, output: str) -> None:
    install_fake_foundry(bare_path, server=f"print('{output}')", service=f"print('{output}')")
    assert await foundry_command.discover_urls(timeout_s=5) == ()


async def test_a_slow_command_is_awaited(find: Find, bare_path: Path) -> None:
    async with run_fake_server(make_service_routes("sdk-2.0")) as url:
        install_fake_foundry(bare_path, server=f"time.sleep(1.2); {print_server_status(url)}")
        found = await find()
    assert found
    assert (found.base_url, found.origin) == (url, "cli")


async def test_a_hanging_command_does_not_delay_a_found_service(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foundry_command, "discover_urls", asyncio.Event().wait)
    async with run_fake_server(make_service_routes("sdk-2.0")) as url:
        found = await asyncio.wait_for(find(url), 30)
    assert found
    assert (found.base_url, found.origin) == (url, "port")


OWN = "http://127.0.0.1:39123"
OTHER = "http://127.0.0.1:43515"


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        ('info: {starting} up\n{"webUrls":["http://127.0.0.1:39123"]}', (OWN,)),
        ('{"level":"info"}\n{"webUrls":["http://127.0.0.1:39123"]}\n} done {', (OWN,)),
        ('{"service":{"webUrls":["http://127.0.0.1:39123"]}}', (OWN,)),
        ('{"server":{"status":{"WebUrls":"http://127.0.0.1:39123"}}}', (OWN,)),
        ('{"webUrls":"http://127.0.0.1:39123;http://127.0.0.1:43515"}', (OWN, OTHER)),
        (
            '{"webUrls":["http://127.0.0.1:39123; http://[::1]:43515/"]}',
            (OWN, "http://[::1]:43515"),
        ),
        ('{"webUrls":["http://+:39123"]}', (OWN,)),
        ('\x1b[32m{"webUrls":\x1b[0m["http://127.0.0.1:39123"]}', (OWN,)),
        (
            "State \x1b[32mReady\x1b[0m\n\x1b[1mWeb URLs\x1b[0m \x1b[4mhttp://127.0.0.1:39123\x1b[0m",
            (OWN,),
        ),
        ("Web URLs  http://127.0.0.1:39123;http://127.0.0.1:43515\nPID 3", (OWN, OTHER)),
        ("Web URLs  http://127.0.0.1:39123, http://127.0.0.1:43515", (OWN, OTHER)),
        ("Web URLs  http://127.0.0.1:39123\n          http://127.0.0.1:43515\nPID 3", (OWN, OTHER)),
        ("│ Web URLs │ http://127.0.0.1:39123 │\n│ PID │ 3 │", (OWN,)),
        ("Web URLs  http://127.0.0.1:39123\r\nProxy: http://127.0.0.1:43515\r\n", (OWN,)),
        (
            '{"webUrls":["http://192.0.2.7:39123","http://evil.example:1","http://127.0.0.1:39123"]}',
            (OWN,),
        ),
        ("Web URLs http://192.0.2.7:39123", ()),
        (
            '{"webUrls":["http://127.0.0.1.evil.example:1","http://2130706433:1","http://u:p@127.0.0.1:1"]}',
            (),
        ),
    ],
)
def test_addresses_are_parsed_from_the_server_command(output: str, urls: tuple[str, ...]) -> None:
    assert foundry_command.parse_urls(output, "") == urls


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        ("running on http://127.0.0.1:39123/openai/status", (OWN,)),
        ("\x1b[32mrunning on http://127.0.0.1:39123\x1b[0m", (OWN,)),
        ("running on http://evil.example:39123/openai/status", ()),
        ("running on http://127.0.0.1:39123; http://192.0.2.7:1", (OWN,)),
    ],
)
def test_addresses_are_parsed_from_the_service_command(output: str, urls: tuple[str, ...]) -> None:
    assert foundry_command.parse_urls("", output) == urls


LISTED = '{"models":[{"alias":"phi","id":"phi:1","cached":true}]}'


@pytest.mark.parametrize(
    "output",
    [
        LISTED,
        f"info: {{starting}} up\n{LISTED}",
        f'{{"level":"info","message":"asking"}}\n{LISTED}\n{{done}}',
        f"\x1b[2m[{{0}}]\x1b[0m {LISTED}",
    ],
)
async def test_a_list_of_models_is_found_between_log_lines(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(_command: list[str], _timeout_s: float) -> foundry_command.CommandResult:
        return foundry_command.CommandResult(output, 0, 0.1)

    monkeypatch.setattr(foundry_command, "run_command", run)
    listed = await foundry_command.FoundryModels("http://127.0.0.1:1").list_models()
    assert [model.id for model in listed] == ["phi:1"]


def test_all_addresses_of_this_machine_are_its_own() -> None:
    addresses = [entry.address for at in psutil.net_if_addrs().values() for entry in at]
    for address in addresses:
        if "." in address:
            url = f"http://{address}:39123"
            assert foundry_command.parse_urls(f"Web URLs {url}", "") == (url,)


async def test_addresses_from_the_command_are_normalised(bare_path: Path) -> None:
    server = 'print(\'{"webUrls": ["http://0.0.0.0:39123", "http://*:43515"]}\')'
    service = "print('running on http://127.0.0.1:39123/openai/status')"
    install_fake_foundry(bare_path, server=server, service=service)
    urls = await foundry_command.discover_urls(timeout_s=5)
    assert urls == ("http://127.0.0.1:39123", "http://127.0.0.1:43515")


async def test_a_stale_address_from_the_command_is_skipped(find: Find, bare_path: Path) -> None:
    install_fake_foundry(bare_path, server=print_server_status(f"http://127.0.0.1:{free_port()}"))
    assert await find() is None


async def test_the_order_is_shared_host_command_ports(
    find: Find, paths: Paths, bare_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "COMMAND_EXTRA_S", 60)  # not even a slow machine passes it over
    pid = psutil.Process().pid
    async with (
        run_fake_server(make_service_routes("sdk-2.1", pid)) as own,
        run_fake_server(make_service_routes("sdk-2.0")) as cli,
        run_fake_server(make_service_routes("sdk-2.0")) as port,
    ):
        install_fake_foundry(bare_path, server=print_server_status(cli))
        write_shared_state(paths, own, pid)
        found = await find(port)
        assert found
        assert (found.base_url, found.origin) == (own, "shared")
        assert found.control
        shared.find_endpoint(paths)
        paths.state_file.unlink()
        found = await find(port)
        assert found
        assert (found.base_url, found.origin) == (cli, "cli")
        (bare_path / "foundry_program.py").unlink()
        found = await find(port)
        assert found
        assert (found.base_url, found.origin) == (port, "port")


async def test_a_state_with_the_port_of_another_service_is_skipped(
    find: Find, paths: Paths
) -> None:
    async with run_fake_server(make_service_routes("sdk-2.1", pid=1)) as url:
        write_shared_state(paths, url, psutil.Process().pid)
        assert await find() is None


async def test_only_the_explicit_address_is_tried(find: Find) -> None:
    async with (
        run_fake_server(make_service_routes("sdk-2.1")) as url,
        run_fake_server(make_service_routes("sdk-2.0")) as other,
    ):
        found = await find(other, settings=Settings(base_url=url))
    assert found
    assert (found.base_url, found.origin) == (url, "explicit")


async def test_an_explicit_address_that_refuses_is_an_error(find: Find) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceNotRunning, match="nothing accepts connections") as caught:
        await find(settings=Settings(base_url=url))
    assert "FOUNDRY_BASE_URL" in caught.value.hint
    assert caught.value.service == url


async def test_an_explicit_address_of_another_server_is_an_error(find: Find) -> None:
    async with run_fake_server({"/": "hello"}) as url:
        with pytest.raises(ProtocolError, match="is not a Foundry Local service"):
            await find(settings=Settings(base_url=url))


async def test_an_explicit_address_that_hangs_has_its_own_error(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "KNOWN_TIMEOUT_S", 0.2)
    with (
        run_silent_server() as url,
        pytest.raises(ServiceNotRunning, match="did not answer within"),
    ):
        await find(settings=Settings(base_url=url))


async def test_the_credential_goes_to_the_explicit_address_only(
    paths: Paths, transport: HttpTransport
) -> None:
    sent: list[tuple[str, str | None]] = []

    class SpyTransport:
        async def send(self, request: Request) -> Response:
            sent.append((request.url, request.headers.get("Authorization")))
            return await transport.send(request)

    async with run_fake_server(make_service_routes("sdk-2.1")) as url:
        ports = [int(url.rpartition(":")[2])]
        for settings in (Settings(base_url=url, api_key="key"), Settings(api_key="key")):
            assert await discovery.find(settings, paths, SpyTransport, ports=ports)
    assert {credential for _, credential in sent[:2]} == {"Bearer key"}
    assert {credential for _, credential in sent[2:]} == {None}


async def test_a_refused_credential_has_its_own_error(find: Find) -> None:
    async with run_fake_server({}, missing=401) as url:
        with pytest.raises(ConfigurationError, match="refuses the credential"):
            await find(settings=Settings(base_url=url, api_key="wrong"))
