"""A headless Chromium, driven through its debugging protocol, without further packages."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Page", "find_browser", "open_browser"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which root and containers may not use
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--ignore-certificate-errors",
    "--force-prefers-reduced-motion",
)
TIME_LIMIT_S = 60


def find_browser() -> str:
    """Return the program of a Chromium; skip the test where there is none."""
    program = os.environ.get("FOUNDRY_TEST_BROWSER") or next(
        filter(None, map(shutil.which, NAMES)), ""
    )
    if not program:
        pytest.skip("needs Chromium; FOUNDRY_TEST_BROWSER may name it")
    return program


class Page:
    """A page of the browser.

    Attributes:
        problems: What it reported: exceptions, errors in its console, requests that failed.
        requests: The addresses that it asked for.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def open(self, url: str) -> None:
        """Go to an address, and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete'")

    async def run(self, script: str) -> Any:
        """Evaluate an expression, await its promise, and return its value."""
        answer = await self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait_for(self, condition: str) -> None:
        """Wait until an expression is true; fail after a time that no test needs."""
        script = f"""new Promise((resolve) => {{
            const look = () => {{ try {{ if ({condition}) return resolve(true) }} catch {{}}
                setTimeout(look, 20) }};
            look() }})"""
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                await self.run(script)
        except TimeoutError:
            text = await self.run("document.body.innerText")
            raise AssertionError(f"never true: {condition}\n{text}\n{self.problems}") from None

    async def press(self, key: str) -> None:
        """Press and release a key such as `Tab`."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}.get(key, 0)
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    async def emulate(self, *, width: int = 1280, height: int = 900, **features: str) -> None:
        """Set the size of the window, and features of media such as `prefers_color_scheme`."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,  # a phone
        )
        await self.send(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
            ],
        )

    async def take_picture(self, *, is_full: bool = False) -> bytes:
        """Return what the page shows as PNG."""
        picture = await self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=is_full
        )
        return base64.b64decode(picture["data"])

    async def send(self, method: str, **parameters: Any) -> Any:
        """Send a command of the debugging protocol, and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        return await answer

    async def close(self) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if (answer := self._answers.pop(event.get("id", 0), None)) is not None:
                if "error" in event:
                    answer.set_exception(AssertionError(event["error"]))
                else:
                    answer.set_result(event["result"])
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            elif problem := _find_problem(event["method"], event["params"]):
                self.problems.append(json.dumps(problem))


def _find_problem(method: str, event: dict[str, Any]) -> Any:
    """Return what an event says about something that went wrong; None if it says nothing."""
    if method == "Runtime.exceptionThrown":
        return event["exceptionDetails"]
    if method == "Runtime.consoleAPICalled" and event["type"] in {"error", "warning"}:
        return event["args"]
    if method == "Log.entryAdded" and event["entry"]["level"] in {"error", "warning"}:
        return event["entry"]
    return None


@asynccontextmanager
async def open_browser() -> AsyncGenerator[Page]:
    """Start a browser with an empty profile, and return its page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        async with _start(directory) as page:
            yield page


@asynccontextmanager
async def _start(directory: str) -> AsyncGenerator[Page]:
    program = find_browser()
    process = await asyncio.create_subprocess_exec(
        program,
        *FLAGS,
        f"--user-data-dir={directory}",
        "about:blank",
        env={**os.environ, "TMPDIR": directory},  # where it leaves what it does not remove
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            port = await _read_port(process)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.get("/json/list") as response:
                targets = await response.json()
            url = next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page")
            async with http.ws_connect(url, max_msg_size=0) as socket:
                page = Page(socket)
                try:
                    yield page
                finally:
                    await page.close()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        drain = asyncio.ensure_future(process.communicate())
        await drain


async def _read_port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    lines: list[bytes] = []
    while line := await process.stderr.readline():
        lines.append(line)
        if line.startswith(b"DevTools listening on ws://"):
            return int(line.split(b":")[2].partition(b"/")[0])
    raise AssertionError(b"".join(lines).decode("utf-8", "replace"))
