"""The page of a gateway with a million stored batches and files and a full audit log.

python3 dev.py bench gateway_page

First paint of the overview, the time until a view shows its data, and the processor time that 20
open pages take. Needs Chromium.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from parts.results import save_figures

from foundry_api.gateway.audit import FILES, MAX_BYTES, AuditFile, AuditRecord
from foundry_api.gateway.files.batch_types import StoredBatch
from foundry_api.gateway.files.database import FileDatabase
from foundry_api.gateway.files.types import StoredFile
from foundry_api.gateway.history import WINDOWS, Gauges, History
from foundry_api.gateway.history_file import HistoryFile
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import NewKey

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.browser import expect, launch_browser, open_page

if TYPE_CHECKING:
    from collections.abc import Generator

    from playwright.async_api import Page

ROWS = 500_000  # of each table
OWNERS = 1000
ROUNDS = 10
PAGES = 20
OPEN_S = 30.0
# What each view shows once it has its data.
VIEWS = {"keys": "tbody tr", "batches": "tbody tr", "log": "tbody tr", "overview": ".plots canvas"}
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


async def fill(directory: Path) -> str:
    """Make a gateway's directory with a long past; return the token of a key that sees all."""
    keys = KeyDatabase(directory)
    admin = NewKey(name="admin", scopes=frozenset({"inference", "manage", "metrics"}))
    token = keys.create(admin)[1]
    now = int(time.time())
    fill_files(directory, now)
    log = AuditFile(directory)
    records = [AuditRecord(time=now, event="model.load", key="admin", target="demo")] * 1000
    while not (directory / f"audit.jsonl.{FILES - 1}").exists():
        log.append(records)
    while log.path.stat().st_size < MAX_BYTES - 1000 * len(records[0].encode()):
        log.append(records)
    history = History()
    gauges = Gauges(tokens=0, running=1, waiting=2, memory_bytes=10**8)
    for step_s, length_s in WINDOWS.values():
        for second in range(now - length_s, now, step_s):
            history.advance(float(step_s), float(second), gauges)
    await HistoryFile(directory, history).save()
    return token


def fill_files(directory: Path, now: int) -> None:
    """Store files and batches of many keys."""
    database = FileDatabase(directory / "files.db")
    with database.transaction():
        for number in range(ROWS):
            owner = f"key{number % OWNERS}"
            file = StoredFile(
                id=f"file-{number}",
                owner=owner,
                purpose="batch",
                filename="in.jsonl",
                size=0,
                created_at=now,
                expires_at=now + 10**6,
            )
            database.files.put(file, kind="batch", ends_at=file.expires_at)
            batch = StoredBatch(
                id=f"batch_{number}",
                owner=owner,
                endpoint="/v1/chat/completions",
                input_file_id=file.id,
                output_file_id=f"file-o{number}",
                error_file_id=f"file-e{number}",
                output_lifetime_s=10**6,
                created_at=now,
                expires_at=now + 86_400,
                status="completed",
                completed_at=now,
                total=100,
                completed=100,
                model="demo",
            )
            database.batches.put(batch, kind=batch.status, ends_at=now + 10**6)
    database.close()


@contextmanager
def serve(home: Path) -> Generator[tuple[str, psutil.Process, float]]:
    """Run the gateway; yield its address, its process, and the seconds until it listened."""
    command = [sys.executable, "-m", "foundry_api", "serve", "-m", "demo", "--port", "0"]
    environment = {**os.environ, "FOUNDRY_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    started_at = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            url = process.stdout.readline().split()[2].partition("/v1")[0]
            yield url, psutil.Process(process.pid), time.perf_counter() - started_at
        finally:
            process.terminate()


async def sign_in(page: Page, url: str, token: str) -> None:
    await page.goto(url)
    await page.get_by_label("Key").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator(".plots canvas").first).to_be_visible()


async def measure_view(page: Page, name: str) -> float:
    """Return the milliseconds from a click until a view shows its data."""
    started_at = time.perf_counter()
    await page.locator(f"nav a[href='#/{name}']").click()
    await expect(page.locator(f"main {VIEWS[name]}").first).to_be_visible()
    return (time.perf_counter() - started_at) * 1000


def get_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(url: str, token: str, process: psutil.Process) -> dict[str, float]:
    figures: dict[str, float] = {}
    async with launch_browser() as browser:
        async with open_page(browser) as (page, _):
            await sign_in(page, url, token)
            state = await page.context.storage_state()
            paints: list[float] = []
            for _ in range(ROUNDS):
                await page.reload()
                await expect(page.locator(".plots canvas").first).to_be_visible()
                paints.append(await page.evaluate(FIRST_PAINT))
            figures["first paint, ms, median"] = statistics.median(paints)
            figures["first paint, ms, longest"] = max(paints)
            for name in VIEWS:
                times = []
                for _ in range(3):
                    times.append(await measure_view(page, name))
                    await page.locator("nav a[href='#/queue']").click()
                    await expect(page.locator(".lead")).to_be_visible()
                figures[f"view {name}, ms, median"] = statistics.median(times)
        async with AsyncExitStack() as stack:
            for _ in range(PAGES):
                page, _ = await stack.enter_async_context(open_page(browser, storage_state=state))
                await page.goto(url)
                await expect(page.locator(".state")).to_have_text("Ready")
            before = get_cpu_s(process)
            await asyncio.sleep(OPEN_S)
            used = get_cpu_s(process) - before
        before = get_cpu_s(process)
        await asyncio.sleep(OPEN_S)
        idle = get_cpu_s(process) - before
        figures[f"{PAGES} open pages, percent of a core"] = (used - idle) / OPEN_S * 100
        figures["no page, percent of a core"] = idle / OPEN_S * 100
    return figures


async def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        home = Path(name)
        token = await fill(home / "gateway")
        with serve(home) as (url, process, start_s):
            figures = await measure(url, token, process)
    save_figures("gateway_page", {"start with a million rows, s": start_s, **figures})


if __name__ == "__main__":
    asyncio.run(main())
