"""Models that are downloaded, watched, cancelled and removed through a gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from foundry_api import DownloadFailed, FoundryAPIClient, ModelNotFound, PermissionDenied
from foundry_api.gateway.keys.types import NewKey
from gateway.helpers import post
from gateway.serving import ServedGateway, serve
from service.helpers import wait_until_async
from support.browser import launch_browser, open_page
from support.cli_program import run
from support.download_engine import MODEL, find_cached, make_files, run_engine
from support.loopback_blobs import FakeDownloadSite, run_download_site
from support.loopback_catalog import ALIAS
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator
    from pathlib import Path

    import aiohttp

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the engine may not trust SSL_CERT_FILE"
)

MANAGE = frozenset({"inference", "manage"})
KEYS = (
    NewKey(name="manager", scopes=MANAGE),
    NewKey(name="narrow", scopes=MANAGE, models=frozenset({"demo"})),
    NewKey(name="caller"),
)
# The four small files of the model and three parts of the large one.
SOME = 7


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_files(tmp_path_factory.mktemp("blobs"))


@pytest.fixture
def site(files: dict[str, bytes]) -> Iterator[FakeDownloadSite]:
    with run_download_site(files) as site:
        yield site


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the engine. Its models have the prompts that they know in their files."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
async def served(
    home: Path, tmp_path: Path, site: FakeDownloadSite
) -> AsyncIterator[ServedGateway]:
    """A gateway with keys in front of an engine that downloads from the site."""
    with run_engine(home, site):
        async with serve(tmp_path / "gateway", None, *KEYS, client={"home": home}) as served:
            yield served


def connect(served: ServedGateway, key: int = 0) -> FoundryAPIClient:
    return FoundryAPIClient(served.gateway.url, api_key=served.tokens[key], max_retries=0)


async def list_states(http: aiohttp.ClientSession) -> dict[str, str]:
    async with http.get("/models") as response:
        models = (await response.json())["data"]
    return {model["id"]: model["status"]["value"] for model in models}


async def read_event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the next event of a stream, without the comments before it."""
    while True:
        text = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 30)
        if text.startswith(b"data: "):
            event: dict[str, Any] = json.loads(text.removeprefix(b"data: "))
            return event


@asynccontextmanager
async def follow(http: aiohttp.ClientSession) -> AsyncGenerator[aiohttp.ClientResponse]:
    """Subscribe to the events of models."""
    async with http.get("/models/sse") as response:
        await response.content.readuntil(b"\n\n")  # the comment that opens the stream
        yield response


async def test_a_model_is_downloaded_used_and_removed(
    served: ServedGateway, home: Path, files: dict[str, bytes]
) -> None:
    percents: list[float] = []
    async with connect(served) as client:
        assert [model.alias for model in await client.models.list()] == []
        model = await client.models.download(ALIAS, lambda step: percents.append(step.percent))
        assert (model.id, model.cached) == (MODEL, True)
        assert percents == sorted(percents)
        assert percents[-1] == 100.0
        answer = await client.complete("say-hello", model=ALIAS)
        assert answer.content == script("say-hello").text
        await client.models.unload(ALIAS)
        assert await client.models.remove(ALIAS) >= sum(map(len, files.values()))
        assert find_cached(home) == set()
        with pytest.raises(ModelNotFound):
            await client.models.remove(ALIAS)


async def test_the_command_line_pulls_and_removes(
    served: ServedGateway, home: Path, tmp_path: Path
) -> None:
    async def call(*arguments: str, key: int = 0) -> Any:
        variables = {"FOUNDRY_API_KEY": served.tokens[key], "FOUNDRY_BASE_URL": served.gateway.url}
        return await asyncio.to_thread(run, "models", *arguments, home=tmp_path / "x", **variables)

    refused = await call("pull", ALIAS, key=2)
    assert (refused.returncode, "scope manage" in refused.stderr) == (2, True)
    pulled = await call("pull", ALIAS)
    assert pulled.stdout == f"{ALIAS} is on this machine: {MODEL}\n"
    assert find_cached(home)
    assert ALIAS in (await call("list")).stdout
    removed = await call("remove", "-y", ALIAS)
    assert removed.stdout.startswith(f"{ALIAS} is deleted, which freed ")
    assert not find_cached(home)
    unknown = await call("pull", "nowhere")
    assert (unknown.returncode, "nowhere" in unknown.stderr) == (1, True)


async def test_a_pull_streams_its_progress(served: ServedGateway) -> None:
    async with served.http.post(f"/api/models/{ALIAS}/pull") as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        events = [await read_event(response)]
        while events[-1].get("status") != "success":
            events.append(await read_event(response))
        assert await response.content.read() == b""
    assert events[-2]["percent"] == 100.0


async def test_the_page_downloads_and_deletes_a_model(
    served: ServedGateway, site: FakeDownloadSite, home: Path
) -> None:
    site.serve_only(SOME)
    async with launch_browser() as browser, open_page(browser) as (page, problems):
        await page.goto(f"{served.gateway.url}/#/models")
        await page.get_by_label("Key").fill(served.tokens[0])
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_label("Show the catalog").check()
        await page.get_by_role("button", name=f"Download {ALIAS}").click()
        # Three complete parts are 61 %.
        table = page.locator("main tbody")
        await expect(table).to_contain_text("61 %")
        # It goes on while another view is open.
        await page.get_by_role("link", name="Queue").click()
        await expect(page.locator("main .lead")).to_be_visible()
        await page.get_by_role("link", name="Models").click()
        await expect(table).to_contain_text("61 %")
        site.serve_all()
        await expect(table).to_contain_text("on this machine")
        assert find_cached(home)
        await page.get_by_role("button", name=f"Delete {ALIAS}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(page.locator("main .empty")).to_be_visible()
        assert find_cached(home) == set()
    assert problems == []


async def test_a_client_that_leaves_stops_its_pull(
    served: ServedGateway, site: FakeDownloadSite, home: Path
) -> None:
    site.serve_only(SOME)
    async with served.http.post(f"/api/models/{ALIAS}/pull") as response:
        while (await read_event(response))["percent"] < 50:
            pass
        [exchange] = served.gateway.context.running
    await exchange.ended
    site.serve_only(1)  # the engine notices at its next report
    await wait_until_async(lambda: ".download.lock" not in find_cached(home))


async def test_a_download_in_the_background_reports_itself(
    served: ServedGateway, site: FakeDownloadSite
) -> None:
    site.serve_only(SOME)
    async with follow(served.http) as events, follow(served.open_session(1)) as others:
        assert await post(served.http, "/models", {"model": ALIAS}) == {"success": True}
        assert await read_event(events) == {
            "model": ALIAS,
            "event": "model_status",
            "data": {"status": "downloading"},
        }
        seen = await read_event(events)
        assert seen["event"] == "download_progress"
        [progress] = seen["data"].values()
        assert progress["total"] == 10 * 2**20
        assert await list_states(served.http) == {ALIAS: "downloading"}
        again = (await post(served.http, "/models", {"model": ALIAS}, 400))["error"]
        assert "is being downloaded already" in again["message"]
        site.serve_all()
        while (seen := await read_event(events))["event"] == "download_progress":
            pass
        assert seen == {"model": ALIAS, "event": "download_finished"}
        assert await list_states(served.http) == {ALIAS: "unloaded"}
        async with served.http.delete(f"/models?model={ALIAS}") as response:
            assert (response.status, await response.json()) == (200, {"success": True})
        assert await read_event(events) == {"model": ALIAS, "event": "model_remove"}
        assert await list_states(served.http) == {}
        await served.gateway.drain(30)
        # The other key may not use the model, so it heard of nothing.
        assert await others.content.read() == b""


async def test_a_download_in_the_background_is_cancelled_and_resumed(
    served: ServedGateway, site: FakeDownloadSite, home: Path
) -> None:
    site.serve_only(SOME)
    async with follow(served.http) as events:
        await post(served.http, "/models", {"model": ALIAS})
        # Three complete parts are 61 %.
        while (seen := await read_event(events))["event"] != "download_progress" or (
            seen["data"][ALIAS]["done"] < 0.6 * seen["data"][ALIAS]["total"]
        ):
            pass
        await post(served.open_session(1), "/models/unload", {"model": ALIAS}, 403)
        await post(served.http, "/models/unload", {"model": ALIAS})
        while (seen := await read_event(events))["event"] == "download_progress":
            pass
        assert seen == {"model": ALIAS, "event": "download_failed"}
        assert await list_states(served.http) == {}
        site.serve_only(1)  # the engine notices at its next report
        await wait_until_async(lambda: ".download.lock" not in find_cached(home))
        site.requested_ranges.clear()
        site.serve_all()
        await post(served.http, "/models", {"model": ALIAS})
        while (await read_event(events))["event"] != "download_finished":
            pass
    assert 0 < len(site.requested_ranges) < SOME  # only what was missing


async def test_a_download_that_fails_says_why(
    served: ServedGateway, site: FakeDownloadSite
) -> None:
    site.registry_status = 404
    async with served.http.post(f"/api/models/{ALIAS}/pull") as response:
        text = await response.text()
    assert '"code":"download_failed"' in text
    assert "HTTP 404" in text
    async with connect(served) as client:
        with pytest.raises(DownloadFailed, match="HTTP 404"):
            await client.models.download(ALIAS)


async def test_who_may_download(served: ServedGateway) -> None:
    async with connect(served, 1) as client:
        with pytest.raises(ModelNotFound, match="that this key may use"):
            await client.models.download(ALIAS)
    async with connect(served, 2) as client:
        with pytest.raises(PermissionDenied, match="scope manage"):
            await client.models.download(ALIAS)
    await post(served.open_session(1), "/models", {"model": ALIAS}, 404)
    for path in (f"/api/models/{ALIAS}/pull", "/models"):
        await post(served.open_session(2), path, {"model": ALIAS}, 403)
    await post(served.http, "/models", {"model": "nowhere"}, 404)
