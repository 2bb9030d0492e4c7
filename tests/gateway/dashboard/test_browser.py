"""The page in a real browser."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from playwright.async_api import expect

from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.testing import FakeService
from gateway.helpers import CALCULATE, post
from gateway.serving import CHAT, call, make_body, serve
from support.browser import find_browser, launch_browser, open_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

    from foundry_api.engine.endpoint import Endpoint
    from gateway.serving import ServedGateway

# One browser, and so one event loop, for all tests of this module.
pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = NewKey(name="admin", scopes=frozenset({"inference", "manage", "metrics"}))
# A name that would do harm as markup.
EVIL = NewKey(name="<img src=x onerror=alert(1)>", rate=Limit(60, "m"), parallel=2)
# Views, and a selector of what each shows when it has its data.
VIEWS = {
    "overview": ".plots canvas >> nth=0",
    "models": "tbody tr >> nth=0",
    "playground": "pre",
    "queue": ".lead",
    "batches": ".table .empty",
    "keys": "tbody tr >> nth=1",
    "log": "tbody tr >> nth=0",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True},
    # Also what 200 % zoom leaves of a window of 640 pixels.
    "narrow": {"viewport": {"width": 320, "height": 640}, "forced_colors": "active"},
}
AXE = Path(__file__).with_name("axe.min.js")
# Where screenshots of the views are left.
SCREENSHOTS = Path(
    os.environ.get("FOUNDRY_TEST_SCREENSHOTS") or Path(__file__).parents[3] / ".screenshots"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with launch_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, served: ServedGateway) -> AsyncIterator[Page]:
    """A page that reports nothing wrong, and that is closed before the gateway."""
    async with open_page(browser) as (page, problems):
        yield page
    assert problems == []


@pytest_asyncio.fixture(loop_scope="module")
async def served(tmp_path: Path) -> AsyncIterator[ServedGateway]:
    find_browser()
    async with (
        FakeService() as upstream,
        serve(tmp_path / "gateway", upstream.base_url, ADMIN, EVIL) as served,
    ):
        yield served


async def sign_in(page: Page, served: ServedGateway, token: str | None = None) -> None:
    await page.goto(served.gateway.url)
    await page.get_by_label("Key").fill(token or served.tokens[0])
    await page.get_by_role("button", name="Sign in").click()


async def open_view(page: Page, name: str) -> None:
    link = page.locator(f"nav a[href='#/{name}']")
    await link.click()
    # Until then the view before it is shown, where the selector may mean something else.
    await expect(page.locator("main h1")).to_have_text(await link.inner_text())
    await expect(page.locator(f"main {VIEWS[name]}")).to_be_visible()


async def find_violations(page: Page) -> list[str]:
    """Return what axe-core finds on the page as it is now."""
    found = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found["violations"]
    ]


@pytest.mark.parametrize("look", LOOKS)
async def test_every_view_works(browser: Browser, served: ServedGateway, look: str) -> None:
    assert (await call(served.open_session(1), make_body("hello", "fake")))[0] == 200
    async with open_page(browser, **LOOKS[look]) as (page, problems):
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        await page.goto(served.gateway.url)
        await page.evaluate(AXE.read_text(encoding="utf-8"))
        await expect(page.get_by_label("Key")).to_be_focused()
        assert await find_violations(page) == []
        await sign_in(page, served)
        await expect(page.locator("nav a").first).to_be_visible()
        await page.evaluate(AXE.read_text(encoding="utf-8"))
        names = await page.locator("nav a").evaluate_all("(all) => all.map((one) => one.hash)")
        assert names == [*(f"#/{name}" for name in VIEWS), ""]
        for name in VIEWS:
            await open_view(page, name)
            assert await find_violations(page) == [], name
            # Nothing is cut at the side.
            width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert width <= 0, name
            # Names from outside are texts, whatever they look like.
            assert await page.locator("main img").count() == 0
            if name == "keys":
                await expect(page.get_by_text(EVIL.name)).to_be_visible()
            await page.screenshot(path=SCREENSHOTS / f"{look}-{name}.png", full_page=True)
        await open_view(page, "keys")
        await page.get_by_role("button", name="Create a key").click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await find_violations(page) == []
        await page.screenshot(path=SCREENSHOTS / f"{look}-dialog.png")
    assert problems == []
    assert all(url.startswith((served.gateway.url, "data:")) for url in requests)


async def test_a_key_is_created_and_shown_once(browser: Browser, served: ServedGateway) -> None:
    async with open_page(browser) as (page, problems):
        await sign_in(page, served)
        await open_view(page, "keys")
        await page.get_by_role("button", name="Create a key").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Name").fill("admin")
        await dialog.get_by_label("Weight").fill("3")
        await dialog.get_by_label("Requests").fill("5/m")
        await dialog.get_by_role("button", name="Create").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("another key")
        # What was entered is still there.
        await expect(dialog.get_by_label("Weight")).to_have_value("3")
        await dialog.get_by_label("Name").fill("from-page")
        await dialog.get_by_role("button", name="Create").click()
        token = await dialog.locator(".token").inner_text()
        await page.keyboard.press("Escape")  # does not close what cannot be shown again
        await dialog.get_by_role("button", name="I have stored it").click()
        await expect(dialog).to_have_count(0)
        await expect(page.locator("main")).to_contain_text("from-page")
        assert token not in await page.content()
        headers = {"Authorization": f"Bearer {token}"}
        assert (await call(served.http, make_body("hello", "fake"), headers))[0] == 200
        row = page.locator("tr", has_text="from-page")
        await expect(row).to_contain_text(re.compile("[1-9][0-9]* tokens since start"))
        # The buttons of a key with limits fit beside it.
        scroller = page.locator(".scroller")
        assert await scroller.evaluate("(one) => one.scrollWidth - one.clientWidth") == 0
        [created] = [key for key in served.gateway.context.keyring.keys if key.name == "from-page"]
        assert created.weight == 3
        # The name that was taken is a failed request; nothing else went wrong.
        [problem] = problems
        assert "400" in problem


async def test_a_call_is_stopped_by_its_button(
    tmp_path: Path, engine: Endpoint, browser: Browser
) -> None:
    async with (
        serve(tmp_path / "gateway", engine.base_url) as served,
        open_page(browser) as (page, problems),
    ):
        body = make_body("say-slowly", stream=True)
        async with served.http.post(CHAT, json=body) as response:
            await response.content.readuntil(b"\n\n")
            await page.goto(served.gateway.url)  # without keys nobody signs in
            await page.get_by_role("button", name="Stop").click()
            assert '"code":"call_stopped"' in await response.text()
        await expect(page.locator("main")).to_contain_text("No call runs")
        await open_view(page, "models")
        row = page.get_by_role("row").filter(has_text="embedder")
        load = row.get_by_role("button", name="Load embedder", exact=True)
        unload = row.get_by_role("button", name="Unload embedder")
        await expect(load.or_(unload)).to_be_visible()
        if await unload.is_visible():  # by an earlier test
            await unload.click()
        await load.click()
        await expect(row).to_contain_text("in memory")
        await unload.click()
        await expect(row).to_contain_text("on this machine")
        assert problems == []


async def test_the_playground_shows_calls_of_tools(
    tmp_path: Path, engine: Endpoint, browser: Browser
) -> None:
    tools = [{"type": "function", "function": {"name": "calculate", "parameters": CALCULATE}}]
    async with (
        serve(tmp_path / "gateway", engine.base_url) as served,
        open_page(browser) as (page, problems),
    ):
        await page.goto(f"{served.gateway.url}/#/playground")
        await page.get_by_label("Model").select_option("scripted")
        await page.get_by_label("Tools").fill(json.dumps(tools))
        await page.get_by_label("Message").fill("call-calculate")
        await page.get_by_role("button", name="Send").click()
        called = page.locator(".turn.assistant code")
        await expect(called).to_have_text(re.compile(r'calculate\(\{"expression":"6 \* 7"\}\)'))
        message = page.get_by_label("Message")
        await expect(message).to_have_attribute("placeholder", "The result of calculate")
        await message.fill("42")
        await expect(page.locator("main pre")).to_contain_text('"tool_call_id"')
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".turn.assistant").nth(1)).to_contain_text("first token")
        assert problems == []


async def test_a_batch_is_uploaded_and_its_answers_are_offered(
    page: Page, served: ServedGateway
) -> None:
    await sign_in(page, served)
    await open_view(page, "batches")
    lines = [
        {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
        for number, body in enumerate((make_body("hello", "fake"), make_body("hello", "junk")))
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    await page.get_by_label("File (JSONL)").set_input_files(
        {"name": "in.jsonl", "mimeType": "application/jsonl", "buffer": content.encode()}
    )
    await page.get_by_role("button", name="Upload and start").click()
    await expect(page.locator("main")).to_contain_text("1 of 2 lines")
    link = page.get_by_role("link", name="Answers")
    await expect(link).to_be_visible()
    async with page.expect_download() as download:
        await link.click()
    path = await (await download.value).path()
    assert json.loads(path.read_text(encoding="utf-8"))["custom_id"] == "line-0"
    # A batch of Anthropic's API is in the same table.
    request = {"custom_id": "first", "params": {**make_body("hello", "fake"), "max_tokens": 9}}
    batch = await post(served.http, "/v1/messages/batches", {"requests": [request]})
    row = page.get_by_role("row", name=batch["id"])
    await expect(row).to_contain_text("/v1/messages")
    await expect(row).to_contain_text("1 of 1 line answered")
    async with page.expect_download() as download:
        await row.get_by_role("link", name="Answers").click()
    path = await (await download.value).path()
    assert json.loads(path.read_text(encoding="utf-8"))["result"]["type"] == "succeeded"


async def test_the_page_says_how_the_first_key_is_created(tmp_path: Path, browser: Browser) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path / "gateway", upstream.base_url) as served,
        open_page(browser) as (page, problems),
    ):
        await page.goto(f"{served.gateway.url}/#/keys")
        await expect(page.locator("main")).to_contain_text("foundry-api keys create")
        assert await page.get_by_role("button", name="Create a key").count() == 0
        assert problems == []


async def test_the_playground_streams_and_shows_the_call(page: Page, served: ServedGateway) -> None:
    await sign_in(page, served)
    await open_view(page, "playground")
    await page.get_by_label("Message").fill("it's a test")
    code = page.locator("main pre")
    await expect(code).to_contain_text("$FOUNDRY_API_KEY")
    await expect(code).to_contain_text("it'\\''s a test")
    for language, line in (("foundry_api", "client.stream_chat("), ("openai", "OpenAI(base_url=")):
        await page.locator(f"input[value={language}]").check()
        await expect(code).to_contain_text(line)
        compile(await code.inner_text(), language, "exec")
    await page.keyboard.press("Tab")
    await page.get_by_label("Message").press("Control+Enter")
    await expect(page.locator(".turn.assistant small")).to_contain_text("tokens")
    assert await page.locator(".turn.assistant .content").inner_text()
    # What is no JSON is not sent.
    await page.get_by_label("JSON schema").fill("{")
    await page.get_by_label("Message").fill("more")
    await page.get_by_role("button", name="Send").click()
    assert await page.locator(".turn.user").count() == 1
    problem = "document.querySelector('textarea:invalid').validationMessage"
    assert "This is not JSON" in await page.evaluate(problem)


async def test_a_wrong_key_is_refused_and_signing_out_ends_the_page(
    browser: Browser, served: ServedGateway
) -> None:
    async with open_page(browser) as (page, problems):
        await sign_in(page, served, "fk_wrong")
        await expect(page.get_by_role("alert")).to_contain_text("not know")
        assert "401" in problems.pop()
        await page.get_by_label("Key").fill(served.tokens[1])
        await page.get_by_role("button", name="Sign in").click()
        # Views of what the key may not do are missing.
        await expect(page.locator(".state")).to_have_text("Ready")
        names = await page.locator("nav a").evaluate_all("(all) => all.map((one) => one.hash)")
        assert names == ["#/overview", "#/models", "#/playground", "#/queue", "#/batches", ""]
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Key")).to_be_focused()
        assert served.tokens[1] not in await page.content()
        assert len(served.gateway.context.sessions) == 0
        assert problems == []


async def test_the_keyboard_is_enough(page: Page, served: ServedGateway) -> None:
    await sign_in(page, served)
    await expect(page.locator("nav")).to_be_visible()
    await page.reload()  # the focus starts at the top
    await expect(page.locator("nav")).to_be_visible()
    focused: list[str] = []
    for _ in range(5):
        await page.keyboard.press("Tab")
        focused.append(await page.evaluate("document.activeElement.textContent.trim()"))
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", focused
    assert focused == ["Skip to the content", "foundry-api", "Sign out", "Overview", "Models"]
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    await expect(page.locator("#main")).to_be_focused()


async def test_the_page_says_that_it_has_no_news(browser: Browser, served: ServedGateway) -> None:
    async with open_page(browser) as (page, _):
        await sign_in(page, served)
        await expect(page.locator(".state")).to_have_text("Ready")
        await page.context.set_offline(True)
        served.gateway.context.live.close()  # type: ignore[attr-defined]
        # The page finds out after seconds, for which the test does not wait.
        await page.evaluate("() => { Performance.prototype.now = () => 1e6 }")
        await expect(page.locator(".state")).to_have_text("Not connected")
        await expect(page.locator(".notice.warn")).to_contain_text("Connecting again")


async def test_a_session_that_has_ended_asks_to_sign_in_again(
    browser: Browser, served: ServedGateway
) -> None:
    async with open_page(browser) as (page, _):
        await sign_in(page, served)
        await expect(page.locator(".state")).to_have_text("Ready")
        served.gateway.context.sessions._sessions.clear()
        await expect(page.get_by_label("Key")).to_be_focused()
        await expect(page.get_by_role("alert")).to_contain_text("ended")


async def test_plots_show_values_as_text_and_below_the_pointer(
    page: Page, served: ServedGateway
) -> None:
    assert (await call(served.http, make_body("hello", "fake")))[0] == 200
    await sign_in(page, served)
    plot = page.locator(".plot").first
    await expect(plot.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("requests: lowest 0, mean .*, highest [01]")
    )
    await plot.get_by_text("As a table").click()
    await expect(plot.get_by_role("columnheader", name="requests")).to_be_visible()
    await expect(plot.locator("tbody tr").first).to_be_visible()
    await plot.locator(".u-over").hover()
    await expect(plot.locator(".readout")).not_to_contain_text("Now")
