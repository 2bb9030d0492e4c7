"""The page in a real browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.testing import FakeService
from gateway.helpers import CALCULATE
from gateway.serving import CHAT, call, make_body, serve
from support.browser import find_browser, open_browser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from gateway.serving import ServedGateway
    from support.browser import Page

ADMIN = NewKey(name="admin", scopes=frozenset({"inference", "manage", "metrics"}))
# A name that would do harm as markup.
EVIL = NewKey(name="<img src=x onerror=alert(1)>", rate=Limit(60, "m"), parallel=2)
# Views, and a selector of what each shows when it has its data.
VIEWS = {
    "overview": ".plots svg path",
    "models": "tbody tr",
    "playground": "select option",
    "queue": ".lead",
    "batches": ".table .empty:not([hidden])",
    "keys": "tbody tr:nth-child(2)",
    "log": "tbody tr",
}
# Controls without a label that a screen reader could say.
UNNAMED = """
[...document.querySelectorAll('button, a, input, select, textarea, meter, progress')]
    .filter((one) => one.checkVisibility() && !(one.textContent.trim()
        || one.getAttribute('aria-label') || one.labels?.[0]?.textContent.trim()))
    .map((one) => one.outerHTML)
"""
LOOKS = {
    "wide": (1280, {"prefers_color_scheme": "light"}),
    "dark": (800, {"prefers_color_scheme": "dark"}),
    "narrow": (320, {"forced_colors": "active"}),
}


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with open_browser() as page:
        yield page


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedGateway]:
    find_browser()
    async with (
        FakeService() as upstream,
        serve(tmp_path / "gateway", upstream.base_url, ADMIN, EVIL) as served,
    ):
        yield served


async def sign_in(page: Page, served: ServedGateway, token: str | None = None) -> None:
    await page.open(served.gateway.url)
    await page.wait_for("document.querySelector('form input')")
    await enter(page, "form input", token or served.tokens[0])
    await page.run("document.querySelector('form').requestSubmit()")


async def enter(page: Page, selector: str, text: str) -> None:
    await page.run(
        f"""(() => {{ const field = document.querySelector({json.dumps(selector)});
            field.value = {json.dumps(text)};
            field.dispatchEvent(new Event('input', {{ bubbles: true }})) }})()"""
    )


async def click(page: Page, text: str) -> None:
    """Click the first visible button or link with a text."""
    found = f"""[...document.querySelectorAll('button, a')].filter((one) => one.checkVisibility())
        .find((one) => one.textContent.trim() === {json.dumps(text)})"""
    await page.wait_for(found)
    await page.run(f"({found}).click()")


async def open_view(page: Page, name: str) -> None:
    await page.run(f"location.hash = '#/{name}'")
    await page.wait_for(f"document.querySelector('main {VIEWS[name]}')")


@pytest.mark.parametrize("look", LOOKS)
async def test_every_view_works(page: Page, served: ServedGateway, look: str) -> None:
    assert (await call(served.open_session(1), make_body("hello", "fake")))[0] == 200
    width, features = LOOKS[look]
    await page.emulate(width=width, **features)
    await sign_in(page, served)
    await page.wait_for("document.querySelectorAll('nav a').length > 1")
    names = await page.run("[...document.querySelectorAll('nav a')].map((one) => one.hash)")
    assert names == [*(f"#/{name}" for name in VIEWS), ""]
    for name in VIEWS:
        await open_view(page, name)
        assert await page.run("document.querySelectorAll('h1').length") == 1
        assert await page.run("document.title") != ""
        # Nothing is cut at the side, and every control has a name.
        assert await page.run("document.documentElement.scrollWidth - innerWidth") <= 0, name
        assert await page.run(UNNAMED) == [], name
        # Names from outside are texts, whatever they look like.
        assert await page.run("document.querySelectorAll('main img').length") == 0
        assert name != "keys" or EVIL.name in await page.run("document.body.innerText")
    assert page.problems == []
    assert all(url.startswith((served.gateway.url, "data:")) for url in page.requests)


async def test_a_key_is_created_and_shown_once(page: Page, served: ServedGateway) -> None:
    await sign_in(page, served)
    await page.wait_for("document.querySelector('nav')")
    await open_view(page, "keys")
    await click(page, "Create a key")
    await page.wait_for("document.querySelector('dialog form')")
    await enter(page, "dialog input[type=text]", "admin")
    await click(page, "Create")
    await page.wait_for("document.querySelector('dialog [role=alert]').checkVisibility()")
    assert "another key" in await page.run(
        "document.querySelector('dialog [role=alert]').innerText"
    )
    await enter(page, "dialog input[type=text]", "from-page")
    await click(page, "Create")
    await page.wait_for("document.querySelector('.token')")
    token = await page.run("document.querySelector('.token').textContent")
    await click(page, "I have stored it")
    await page.wait_for("!document.querySelector('dialog')")
    await page.wait_for("document.querySelector('main').innerText.includes('from-page')")
    assert token not in await page.run("document.documentElement.outerHTML")
    headers = {"Authorization": f"Bearer {token}"}
    assert (await call(served.http, make_body("hello", "fake"), headers))[0] == 200
    # The name that was taken is a failed request; nothing else went wrong.
    assert [one for one in page.problems if "400" not in one] == []


async def test_a_call_is_stopped_by_its_button(
    tmp_path: Path, engine: Endpoint, page: Page
) -> None:
    async with serve(tmp_path / "gateway", engine.base_url) as served:
        body = make_body("say-slowly", stream=True)
        async with served.http.post(CHAT, json=body) as response:
            await response.content.readuntil(b"\n\n")
            await page.open(served.gateway.url)  # without keys nobody signs in
            await click(page, "Stop")
            assert '"code":"call_stopped"' in await response.text()
        await page.wait_for("document.querySelector('main').innerText.includes('No call runs')")
        await open_view(page, "models")
        row = "document.querySelector('[aria-label=\"Load embedder\"]').closest('tr')"
        for action, state in (("Load", "in memory"), ("Unload", "on this machine")):
            button = f"{row}.querySelector('[aria-label=\"{action} embedder\"]')"
            await page.wait_for(row)
            if await page.run(f"{button}.checkVisibility()"):
                await page.run(f"{button}.click()")
            await page.wait_for(f"{row}.innerText.includes('{state}')")
        assert page.problems == []


async def test_the_playground_shows_calls_of_tools(
    tmp_path: Path, engine: Endpoint, page: Page
) -> None:
    tools = [{"type": "function", "function": {"name": "calculate", "parameters": CALCULATE}}]
    async with serve(tmp_path / "gateway", engine.base_url) as served:
        await page.open(f"{served.gateway.url}/#/playground")
        await page.wait_for("[...document.querySelectorAll('option')].some(x => x.value)")
        await page.run("document.querySelector('main select').value = 'scripted'")
        await enter(page, "textarea[placeholder=none]", json.dumps(tools))
        await enter(page, "textarea[aria-label=Message]", "call-calculate")
        await page.run("document.querySelector('form.chat').requestSubmit()")
        await page.wait_for("document.querySelector('.turn.assistant code')")
        shown = await page.run("document.querySelector('.turn.assistant code').textContent")
        assert shown.startswith('calculate({"expression":"6 * 7"})')
        field = "document.querySelector('textarea[aria-label=Message]')"
        await page.wait_for(f"{field}.placeholder === 'The result of calculate'")
        await enter(page, "textarea[aria-label=Message]", "42")
        assert '"tool_call_id"' in await page.run("document.querySelector('main pre').innerText")
        await page.run("document.querySelector('form.chat').requestSubmit()")
        await page.wait_for(
            "document.querySelectorAll('.turn.assistant')[1].innerText.includes('first token')"
        )
        assert page.problems == []


async def test_a_batch_is_uploaded_and_its_answers_are_offered(
    page: Page, served: ServedGateway
) -> None:
    await sign_in(page, served)
    await page.wait_for("document.querySelector('nav')")
    await open_view(page, "batches")
    lines = [
        {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
        for number, body in enumerate((make_body("hello", "fake"), make_body("hello", "junk")))
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    await page.run(
        f"""(() => {{ const files = new DataTransfer();
            files.items.add(new File([{json.dumps(content)}], 'in.jsonl'));
            document.querySelector('input[type=file]').files = files.files }})()"""
    )
    await click(page, "Upload and start")
    await page.wait_for("document.querySelector('main').innerText.includes('1 of 2 lines')")
    link = "[...document.querySelectorAll('a.button')].find((one) => one.textContent === 'Answers')"
    await page.wait_for(f"{link}.checkVisibility()")
    answers = await page.run(f"fetch({link}.href).then((response) => response.text())")
    assert json.loads(answers)["custom_id"] == "line-0"
    assert page.problems == []


async def test_the_page_says_how_the_first_key_is_created(tmp_path: Path, page: Page) -> None:
    async with (
        FakeService() as upstream,
        serve(tmp_path / "gateway", upstream.base_url) as served,
    ):
        await page.open(f"{served.gateway.url}/#/keys")
        await click(page, "Create a key")
        await enter(page, "dialog input[type=text]", "first")
        await click(page, "Create")
        await page.wait_for("document.querySelector('dialog').innerText.includes('keys create')")


async def test_the_playground_streams_and_shows_the_call(page: Page, served: ServedGateway) -> None:
    await sign_in(page, served)
    await page.wait_for("document.querySelector('nav')")
    await open_view(page, "playground")
    await enter(page, "textarea[aria-label=Message]", "it's a test")
    code = await page.run("document.querySelector('main pre').innerText")
    assert "$FOUNDRY_API_KEY" in code
    assert "it'\\''s a test" in code
    for language, line in (("foundry_api", "client.stream_chat("), ("openai", "OpenAI(base_url=")):
        await page.run(f"document.querySelector('input[value={language}]').click()")
        assert line in await page.run("document.querySelector('main pre').innerText")
        compile(await page.run("document.querySelector('main pre').innerText"), language, "exec")
    await page.run("document.querySelector('form.chat').requestSubmit()")
    await page.wait_for(
        "document.querySelector('.turn.assistant small').textContent.includes('tokens')"
    )
    assert await page.run("document.querySelector('.turn.assistant .content').textContent")
    assert page.problems == []


async def test_a_wrong_key_is_refused_and_signing_out_ends_the_page(
    page: Page, served: ServedGateway
) -> None:
    await sign_in(page, served, "fk_wrong")
    await page.wait_for("document.querySelector('[role=alert]').innerText.includes('not know')")
    page.problems.clear()  # the browser reports the 401
    await enter(page, "form input", served.tokens[1])
    await page.run("document.querySelector('form').requestSubmit()")
    # Views of what the key may not do are missing.
    await page.wait_for("document.querySelector('nav')")
    names = await page.run("[...document.querySelectorAll('nav a')].map((one) => one.hash)")
    assert names == ["#/overview", "#/models", "#/playground", "#/queue", "#/batches", ""]
    await page.wait_for("document.querySelector('.state').className.includes('good')")
    await click(page, "Sign out")
    await page.wait_for("document.querySelector('form input')")
    assert served.tokens[1] not in await page.run("document.documentElement.outerHTML")
    assert len(served.gateway.context.sessions) == 0
    assert page.problems == []


async def test_the_keyboard_is_enough(page: Page, served: ServedGateway) -> None:
    await sign_in(page, served)
    await page.wait_for("document.querySelector('nav')")
    await page.open("about:blank")
    await page.open(served.gateway.url)  # the focus starts at the top
    await page.wait_for("document.querySelector('nav')")
    focused: list[str] = []
    for _ in range(5):
        await page.press("Tab")
        focused.append(await page.run("document.activeElement.textContent.trim()"))
        outline = await page.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", focused
    assert focused == ["Skip to the content", "foundry-api", "Sign out", "Overview", "Models"]
    await page.press("Enter")
    await page.wait_for("document.querySelector('h1').innerText === 'Models'")
    assert await page.run("document.activeElement.id") == "main"


async def test_the_page_says_that_it_has_no_news(page: Page, served: ServedGateway) -> None:
    await sign_in(page, served)
    await page.wait_for("document.querySelector('.state').className.includes('good')")
    await page.send(
        "Network.emulateNetworkConditions",
        offline=True,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
    served.gateway.context.live.close()  # type: ignore[attr-defined]
    # The page finds out after seconds, for which the test does not wait.
    await page.run("Performance.prototype.now = () => 1e6")
    await page.wait_for("document.querySelector('.state').className.includes('stale')")
    notice = "document.querySelector('.notice.warn')"
    await page.wait_for(f"{notice}.checkVisibility()")
    assert "Connecting again" in await page.run(f"{notice}.innerText")


async def test_a_session_that_has_ended_asks_to_sign_in_again(
    page: Page, served: ServedGateway
) -> None:
    await sign_in(page, served)
    await page.wait_for("document.querySelector('.state').className.includes('good')")
    served.gateway.context.sessions._sessions.clear()
    await page.wait_for("document.querySelector('form input[type=password]')")
    assert "ended" in await page.run("document.querySelector('[role=alert]').innerText")
