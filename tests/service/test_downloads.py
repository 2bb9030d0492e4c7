"""Downloads of the real 2.2.1 engine from a catalog, a registry and a blob store on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from foundry_api import (
    DownloadFailed,
    DownloadProgress,
    FoundryAPIClient,
    FoundryClient,
    InvalidRequest,
    ModelInUse,
    ModelNotFound,
)
from foundry_api.engine.control import ControlClient
from service.helpers import wait_until_async
from support.download_engine import LARGE, MODEL, RANGES, find_cached, make_files, run_engine
from support.loopback_blobs import FakeDownloadSite, run_download_site
from support.loopback_catalog import ALIAS, VARIANT, make_entity, run_catalog
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from foundry_api.engine.supervisor import EngineHost
    from foundry_api.wire.http import HttpTransport

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the engine may not trust SSL_CERT_FILE"
)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a working model."""
    return make_files(tmp_path_factory.mktemp("blobs"))


@pytest.fixture
def blobs(files: dict[str, bytes]) -> Iterator[FakeDownloadSite]:
    with run_download_site(files) as served:
        yield served


@pytest.fixture
async def client(own_home: Path, blobs: FakeDownloadSite) -> AsyncIterator[FoundryAPIClient]:
    with run_engine(own_home, blobs):
        async with FoundryAPIClient(home=own_home, max_retries=0) as client:
            yield client


async def test_a_download_reports_progress_and_the_model_works(
    client: FoundryAPIClient, own_home: Path, files: dict[str, bytes]
) -> None:
    steps_seen: list[DownloadProgress] = []
    model = await client.models.download(ALIAS, steps_seen.append)

    assert (model.id, model.cached, model.size_mb) == (MODEL, True, 10)
    assert find_cached(own_home) == {*files, "v1/inference_model.json"}
    percents = [progress.percent for progress in steps_seen]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0.0, 100.0)
    assert (steps_seen[-1].done_mb, steps_seen[-1].total_mb) == (10.0, 10.0)
    response = await client.complete("say-hello", model=ALIAS)
    assert response.content == script("say-hello").text


async def test_a_download_can_be_streamed(
    client: FoundryAPIClient, blobs: FakeDownloadSite
) -> None:
    percents = [step.percent async for step in client.models.stream_download(ALIAS)]

    assert percents == sorted(percents)
    assert percents[-1] == 100.0
    assert (await client.models.cached())[0].id == MODEL
    assert [step async for step in client.models.stream_download(ALIAS)] == []
    with pytest.raises(ModelNotFound):
        await anext(client.models.stream_download("nowhere"))


async def test_closing_the_stream_stops_the_download(
    client: FoundryAPIClient, blobs: FakeDownloadSite, own_home: Path
) -> None:
    blobs.serve_only(7)  # the four small files and three parts of the large one
    async with contextlib.aclosing(client.models.stream_download(ALIAS)) as steps:
        async for step in steps:
            if step.percent > 50:
                break
    blobs.serve_only(1)  # the engine notices at its next report
    await wait_until_async(lambda: ".download.lock" not in find_cached(own_home))

    assert not (await client.models.list(catalog=True))[0].cached


def test_the_blocking_client_streams_a_download(own_home: Path, blobs: FakeDownloadSite) -> None:
    with run_engine(own_home, blobs), FoundryClient(home=own_home, max_retries=0) as client:
        percents = [step.percent for step in client.models.stream_download(ALIAS)]

        assert percents[-1] == 100.0
        assert client.complete("say-hello", model=ALIAS).content == script("say-hello").text


async def test_a_cached_model_is_not_downloaded_again(
    client: FoundryAPIClient, blobs: FakeDownloadSite
) -> None:
    await client.models.download(ALIAS)
    blobs.requested_ranges.clear()
    assert (await client.models.download(ALIAS)).cached
    assert blobs.requested_ranges == []


async def test_a_cancelled_download_is_resumed(
    client: FoundryAPIClient, blobs: FakeDownloadSite, own_home: Path
) -> None:
    blobs.serve_only(7)  # the four small files and three parts of the large one
    percents: list[float] = []
    task = asyncio.create_task(
        client.models.download(ALIAS, lambda step: percents.append(step.percent))
    )
    # Three complete parts are 61 %. A heartbeat also counts what has arrived of incomplete ones.
    await wait_until_async(lambda: percents and percents[-1] > 60)
    await wait_until_async(
        lambda: len([request for request in blobs.requested_ranges if request.blob == LARGE]) == 5
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (await client.models.list(catalog=True))[0].cached

    blobs.serve_only(1)  # the engine notices at its next report
    await wait_until_async(lambda: ".download.lock" not in find_cached(own_home))
    first_requests = {request for request in blobs.requested_ranges if request.blob == LARGE}
    blobs.requested_ranges.clear()
    blobs.serve_all()
    assert (await client.models.download(ALIAS)).cached
    second_requests = set(blobs.requested_ranges)
    assert second_requests < first_requests
    assert len(second_requests) <= 2


async def test_a_short_response_is_an_error(
    client: FoundryAPIClient, blobs: FakeDownloadSite
) -> None:
    blobs.missing_bytes = 1
    with pytest.raises(DownloadFailed, match="short read from blob stream") as caught:
        await client.models.download(ALIAS)
    assert "blob_downloader.cc" not in str(caught.value)
    assert caught.value.model == MODEL
    blobs.missing_bytes = 0
    assert (await client.models.download(ALIAS)).cached


async def test_a_stalled_download_fails(client: FoundryAPIClient, blobs: FakeDownloadSite) -> None:
    """The engine retries for minutes without reporting it."""
    blobs.drop_connections = True
    blobs.serve_only(6)
    with pytest.raises(DownloadFailed, match=r"no data was received for 3 s, after [1-9]\d%"):
        await client.models.download(ALIAS, stall_s=3)
    blobs.serve_all()
    assert (await client.models.download(ALIAS)).cached


async def test_a_slow_download_does_not_fail(
    client: FoundryAPIClient, blobs: FakeDownloadSite
) -> None:
    """The engine does not report the small parts in which its bytes arrive."""
    blobs.pause_s = 0.12
    steps_seen: list[DownloadProgress] = []
    assert (await client.models.download(ALIAS, steps_seen.append, stall_s=3)).cached
    percents = [progress.percent for progress in steps_seen]
    assert len(percents) > len(set(percents))


@pytest.mark.parametrize(("status", "expected"), [(404, "HTTP 404"), (500, "candidate region")])
async def test_a_refused_download_is_an_error(
    client: FoundryAPIClient, blobs: FakeDownloadSite, status: int, expected: str
) -> None:
    blobs.registry_status = status
    with pytest.raises(DownloadFailed, match=expected) as caught:
        await client.models.download(ALIAS)
    assert "sig=tests" not in str(caught.value)


async def test_engines_of_one_home_share_a_download(
    start: Callable[..., EngineHost],
    transport: HttpTransport,
    blobs: FakeDownloadSite,
    files: dict[str, bytes],
) -> None:
    """The engine has a lock for that, and the second one detects the bytes of the first one."""

    async def pull(url: str) -> list[float]:
        host = start(catalog_url=url, environ={**os.environ, **blobs.environ})
        control = (await host.wait_ready()).control
        assert control
        return [percent async for percent in ControlClient(transport, control).download(MODEL)]

    blobs.serve_only(6)
    with run_catalog([make_entity(ALIAS, VARIANT)]) as url:
        first = asyncio.create_task(pull(url))
        await wait_until_async(lambda: len(blobs.requested_ranges) > 6)
        second = asyncio.create_task(pull(url))
        blobs.serve_all()
        assert (await first)[-1] == (await second)[-1] == 100.0
    assert len(blobs.requested_ranges) == len(files) - 1 + RANGES


async def test_two_clients_share_a_download(
    client: FoundryAPIClient, blobs: FakeDownloadSite, own_home: Path, files: dict[str, bytes]
) -> None:
    blobs.serve_only(6)
    progress: dict[str, float] = {}

    def pull(puller: FoundryAPIClient, name: str) -> asyncio.Task[object]:
        return asyncio.create_task(
            puller.models.download(ALIAS, lambda step: progress.update({name: step.percent}))
        )

    async with FoundryAPIClient(home=own_home, max_retries=0) as other:
        first = pull(client, "first")
        await wait_until_async(lambda: progress.get("first", 0) > 0)
        second = pull(other, "second")
        await wait_until_async(lambda: progress.get("second") == progress["first"])
        first.cancel()  # the second one still waits for it
        blobs.serve_all()
        await second
    assert len(blobs.requested_ranges) == len(files) - 1 + RANGES


async def test_a_downloaded_model_is_removed_unless_it_is_loaded(
    client: FoundryAPIClient, own_home: Path, files: dict[str, bytes]
) -> None:
    await client.models.download(ALIAS)
    await client.models.load(ALIAS)
    with pytest.raises(ModelInUse, match=f"models unload {ALIAS}"):
        await client.models.remove(ALIAS)
    await client.models.unload(ALIAS)
    freed = await client.models.remove(ALIAS)
    assert freed >= sum(map(len, files.values()))
    assert find_cached(own_home) == set()
    with pytest.raises(ModelNotFound):
        await client.models.remove(ALIAS)


async def test_an_invalid_stall_time_is_rejected(client: FoundryAPIClient) -> None:
    with pytest.raises(InvalidRequest, match="stall_s"):
        await client.models.download(ALIAS, stall_s=0)
