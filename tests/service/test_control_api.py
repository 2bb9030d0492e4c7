"""Downloads through the control API, with a simulated engine, since real ones need a network."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from foundry_api.engine.control import ControlClient
from foundry_api.engine.control_messages import HostInfo
from foundry_api.engine.endpoint import ControlAddress
from foundry_api.engine.host.control_api import ControlAPI
from foundry_api.engine.host.downloads import DownloadManager
from foundry_api.types.errors import (
    CatalogUnavailable,
    DownloadFailed,
    FoundryError,
    ModelNotFound,
    ProtocolError,
    ServerError,
)
from foundry_api.types.models import Model
from service.helpers import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from foundry_api.engine.control_messages import PublicListing
    from foundry_api.wire.http import HttpTransport

MODEL = Model(id="phi:1", alias="phi", catalog="public", cached=True)


class FakeEngine:
    """A simulated engine."""

    def __init__(self) -> None:
        self.steps: Sequence[float] = ()
        self.failure: Exception | None = None
        self.hang = False
        self.may_stop = threading.Event()
        self.may_stop.set()
        self.cancelled = threading.Event()
        self.runs = 0
        self.bytes: Iterator[int] = itertools.repeat(0)

    def download(
        self, name: str, progress: Callable[[float], None], cancel: threading.Event
    ) -> Model:
        self.runs += 1
        for step in self.steps:
            progress(step)
        if self.hang:
            cancel.wait(20)
            self.cancelled.set()
            assert self.may_stop.wait(20)
            raise DownloadFailed("the download was cancelled", model=name)
        if self.failure:
            raise self.failure
        return MODEL

    def list_local_models(self) -> Sequence[Model]:
        return [MODEL]

    def list_public_models(self) -> PublicListing:
        raise CatalogUnavailable("the public catalog could not be reached")

    def register(self, directory: Path, alias: str) -> Model:
        raise RuntimeError(f"an internal error: {directory} {alias}")

    def unregister(self, name: str) -> None:
        raise ModelNotFound("not registered", model=name)

    def remove(self, name: str) -> int:
        return len(name)

    def count_received(self, model_id: str) -> int:
        assert model_id
        return next(self.bytes)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def control(engine: FakeEngine, transport: HttpTransport) -> AsyncIterator[ControlClient]:
    info = HostInfo(
        pid=1,
        url="http://127.0.0.1:1",
        uptime_s=0.0,
        sdk_version="2.2.1",
        log_path="log",
        owner_pid=None,
        idle_timeout_s=0.0,
    )
    downloads = DownloadManager(engine, heartbeat_s=0.01)
    app = ControlAPI(engine, "secret", lambda: info, lambda: None, downloads=downloads).make_app()
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield ControlClient(transport, ControlAddress(f"http://127.0.0.1:{port}", "secret"))
    await runner.cleanup()


async def test_a_download_reports_its_progress(control: ControlClient, engine: FakeEngine) -> None:
    engine.steps = (0.0, 12.5, 12.51, 12.52, 50.0, 100.0)
    assert [percent async for percent in control.download("phi")] == [0.0, 12.5, 50.0, 100.0]


@pytest.mark.parametrize(
    "failure",
    [
        ModelNotFound("the catalog has no such model"),
        CatalogUnavailable("the public catalog could not be reached"),
        DownloadFailed("the disk is full"),
    ],
)
async def test_a_failed_download_raises_the_engines_error(
    control: ControlClient, engine: FakeEngine, failure: FoundryError
) -> None:
    engine.steps = (10.0,)
    engine.failure = failure
    download = control.download("phi")
    assert [await anext(download), await anext(download)] == [0.0, 10.0]
    with pytest.raises(type(failure), match=failure.message) as caught:
        await anext(download)
    assert caught.value.model == "phi"


async def test_closing_the_download_cancels_it(control: ControlClient, engine: FakeEngine) -> None:
    engine.steps, engine.hang = (1.0,), True
    download = control.download("phi")
    assert [await anext(download), await anext(download)] == [0.0, 1.0]
    await download.aclose()
    await wait_until_async(engine.cancelled.is_set)


async def test_cancelling_the_caller_cancels_the_download(
    control: ControlClient, engine: FakeEngine
) -> None:
    engine.steps, engine.hang = (1.0,), True

    async def follow() -> None:
        async for _ in control.download("phi"):
            following.set()

    following = asyncio.Event()
    task = asyncio.create_task(follow())
    await following.wait()
    task.cancel()
    await asyncio.wait([task])
    await wait_until_async(engine.cancelled.is_set)


async def test_other_calls_are_answered_during_a_download(
    control: ControlClient, engine: FakeEngine
) -> None:
    engine.steps, engine.hang = (1.0,), True
    download = control.download("phi")
    await anext(download)
    assert await control.list_local_models() == [MODEL]
    assert await control.remove("phi") == len("phi")
    await download.aclose()
    await wait_until_async(engine.cancelled.is_set)


async def test_clients_share_a_download_until_the_last_one_leaves(
    control: ControlClient, engine: FakeEngine
) -> None:
    engine.steps, engine.hang = (25.0,), True
    first, second = control.download("phi"), control.download("PHI")
    assert [await anext(first), await anext(first)] == [0.0, 25.0]
    assert await anext(second) == 25.0
    await first.aclose()
    assert not engine.cancelled.is_set()
    await second.aclose()
    await wait_until_async(engine.cancelled.is_set)
    assert engine.runs == 1


async def test_a_client_that_joins_a_cancelled_download_gets_a_new_run(
    control: ControlClient, engine: FakeEngine
) -> None:
    """An engine notices a cancellation only at its next progress report."""
    engine.steps, engine.hang = (25.0,), True
    engine.may_stop = threading.Event()
    first = control.download("phi")
    assert [await anext(first), await anext(first)] == [0.0, 25.0]
    await first.aclose()
    await wait_until_async(engine.cancelled.is_set)
    second = control.download("phi")
    assert await anext(second) == 25.0
    engine.steps, engine.hang = (25.0, 100.0), False
    engine.may_stop.set()
    assert [percent async for percent in second] == [100.0]
    assert engine.runs == 2


async def test_bytes_without_progress_repeat_the_percent(
    control: ControlClient, engine: FakeEngine
) -> None:
    engine.steps, engine.hang, engine.bytes = (25.0,), True, itertools.count(1)
    download = control.download("phi")
    assert [await anext(download) for _ in range(5)] == [0.0, *[25.0] * 4]
    await download.aclose()
    await wait_until_async(engine.cancelled.is_set)


async def test_an_engine_exception_ends_the_download(
    control: ControlClient, engine: FakeEngine
) -> None:
    engine.failure = OSError("no such device")
    with pytest.raises(ServerError, match="OSError: no such device"):
        [percent async for percent in control.download("phi")]


async def test_an_unreachable_catalog_is_an_error(control: ControlClient) -> None:
    with pytest.raises(CatalogUnavailable, match="could not be reached"):
        await control.list_public_models()


async def test_an_exception_in_the_host_is_a_server_error(
    control: ControlClient, tmp_path: Path
) -> None:
    with pytest.raises(ServerError):
        await control.register(tmp_path, "x")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", DownloadFailed),
        (b'{"percent": 1}\n', DownloadFailed),
        (b"nonsense\n", ProtocolError),
        (b"x" * 100_000, ProtocolError),
        (b'{"error": {"kind": "SystemExit", "message": "no"}}\n', ServerError),
        (b'{"error": {"kind": "classify", "message": "no"}}\n', ServerError),
    ],
)
async def test_invalid_responses_are_errors(
    transport: HttpTransport, body: bytes, error: type[FoundryError]
) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        control = ControlClient(transport, ControlAddress(f"http://127.0.0.1:{port}", "secret"))
        with pytest.raises(error):
            [percent async for percent in control.download("phi")]
