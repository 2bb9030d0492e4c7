"""A headless Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import async_playwright, expect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from playwright.async_api import Browser, ConsoleMessage, Page

__all__ = ["find_browser", "launch_browser", "open_page"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Longer than anything takes on a busy machine.
TIME_LIMIT_MS = 60_000

expect.set_options(timeout=TIME_LIMIT_MS)


def find_browser() -> str:
    """Return the program of a Chromium; skip the test where there is none."""
    program = os.environ.get("FOUNDRY_TEST_BROWSER") or next(
        filter(None, map(shutil.which, NAMES)), ""
    )
    if not program:
        pytest.skip("needs Chromium; FOUNDRY_TEST_BROWSER may name it")
    return program


@asynccontextmanager
async def launch_browser() -> AsyncGenerator[Browser]:
    """Start the Chromium of this machine; nothing is downloaded."""
    program = find_browser()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program,
            chromium_sandbox=False,  # which root and containers may not use
        )
        async with browser:
            yield browser


@asynccontextmanager
async def open_page(browser: Browser, **options: Any) -> AsyncGenerator[tuple[Page, list[str]]]:
    """Open a page with an empty profile; yield it, and what it reports as wrong.

    `options` are those of Playwright's `new_context`.
    """
    options.setdefault("reduced_motion", "reduce")
    async with await browser.new_context(**options) as context:
        context.set_default_timeout(TIME_LIMIT_MS)
        page = await context.new_page()
        problems: list[str] = []

        def add_message(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                problems.append(message.text)

        page.on("console", add_message)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page, problems
