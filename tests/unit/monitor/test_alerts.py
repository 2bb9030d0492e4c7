"""Alerts: functions, webhooks and programs, none of which can harm the monitor."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from foundry_api import AlertCommand, AlertWebhook, HealthChanged, InvalidRequest
from foundry_api.monitor import alerts as listeners_module
from foundry_api.monitor.alerts import Notifier, format_change
from support.monitor_factories import seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]

NOTED = """
import json, os, pathlib, sys
facts = {name: value for name, value in os.environ.items() if name.startswith("FOUNDRY_HEALTH_")}
pathlib.Path(sys.argv[1]).write_text(json.dumps([facts, json.load(sys.stdin), sys.argv[2:]]))
"""


def change(old: str = "healthy", new: str = "down", reason: str = "it is gone") -> HealthChanged:
    sample = seen(new, service="http://127.0.0.1:5273", detail=reason)
    return HealthChanged(old=old, new=new, since=1.0, at=2.0, reason=reason, sample=sample)  # type: ignore[arg-type]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a real receiver of webhooks; its address."""
    runners: list[web.AppRunner] = []

    async def serve(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
        app = web.Application()
        app.router.add_post("/hook/{secret}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/hook/s3cret"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def test_a_webhook_posts_the_change_and_a_sentence_for_people(serve: Serve) -> None:
    got: list[tuple[str | None, Any]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((request.headers.get("X-Key"), await request.json()))
        return web.Response()

    await AlertWebhook(await serve(take), headers={"X-Key": "k"})(change())
    [(key, body)] = got
    assert key == "k"
    assert body["text"] == "http://127.0.0.1:5273 is down (was healthy): it is gone"
    assert (body["old"], body["new"], body["since"]) == ("healthy", "down", 1.0)
    assert body["sample"]["service"] == "http://127.0.0.1:5273"


@pytest.mark.parametrize("fault", ["500", "hangs", "nothing there"])
async def test_a_webhook_that_fails_is_logged_without_its_secret(
    serve: Serve, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        if fault == "hangs":
            await asyncio.sleep(30)
        return web.Response(status=500)

    url = "http://127.0.0.1:9/hook/s3cret" if fault == "nothing there" else await serve(refuse)
    webhook = AlertWebhook(url, headers={"X-Key": "s3cret"}, timeout_s=0.3)
    with caplog.at_level(logging.WARNING, "foundry_api"):
        await webhook(change())
    assert len(caplog.records) == 1
    assert "webhook at http://127.0.0.1:" in caplog.text
    assert "s3cret" not in caplog.text + repr(webhook)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "ftp://127.0.0.1/x",
        "https://me:pass@example.org/",
        "",
        "//x",
        "http://[",
    ],
)
def test_a_webhook_that_would_tell_the_world_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        AlertWebhook(url)
    assert caught.value.field == "webhook"
    assert "pass" not in str(caught.value).replace("password", "")


async def test_a_program_is_given_the_facts(tmp_path: Path) -> None:
    noted = tmp_path / "noted.json"
    harmless = "$(touch x); `y`"
    await AlertCommand([sys.executable, "-c", NOTED, str(noted), harmless])(change())
    facts, body, arguments = json.loads(noted.read_text(encoding="utf-8"))
    assert facts == {
        "FOUNDRY_HEALTH_OLD": "healthy",
        "FOUNDRY_HEALTH_NEW": "down",
        "FOUNDRY_HEALTH_REASON": "it is gone",
        "FOUNDRY_HEALTH_SERVICE": "http://127.0.0.1:5273",
        "FOUNDRY_HEALTH_TEXT": "http://127.0.0.1:5273 is down (was healthy): it is gone",
    }
    assert body["new"] == "down"
    assert arguments == [harmless]


@pytest.mark.parametrize(
    ("command", "logged"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "ended with status 3"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "was killed after 0.5 s"),
        (["no-such-program-anywhere"], "cannot be run"),
    ],
)
async def test_a_program_that_fails_is_logged(
    command: list[str], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "foundry_api"):
        await AlertCommand(command, timeout_s=0.5)(change())
    assert logged in caplog.text


@pytest.mark.parametrize("command", [[], "rm -rf x"])
def test_a_command_has_to_be_a_list(command: Any) -> None:
    with pytest.raises(InvalidRequest, match="has to be a list"):
        AlertCommand(command)


async def test_nobody_is_woken_because_all_is_well(tmp_path: Path) -> None:
    command = AlertCommand(["no-such-program-anywhere"])
    await command(change("unknown", "healthy", ""))
    await AlertWebhook("http://127.0.0.1:9/")(change("unknown", "healthy", ""))


def test_a_change_in_words() -> None:
    assert format_change(change("unknown", "down")) == "http://127.0.0.1:5273 is down: it is gone"
    assert (
        format_change(change("down", "healthy", ""))
        == "http://127.0.0.1:5273 is healthy (was down)"
    )


async def test_listeners_hear_in_order_however_slow_they_are() -> None:
    heard: list[str] = []

    async def slow(event: HealthChanged) -> None:
        await asyncio.sleep(0.02 if event.new == "down" else 0)
        heard.append(event.new)

    listeners = Notifier(slow)
    for new in ("down", "healthy", "degraded"):
        listeners.notify(change(new=new))
    await listeners.aclose()
    assert heard == ["down", "healthy", "degraded"]


async def test_one_that_fails_is_logged_and_the_others_hear(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[HealthChanged] = []

    def broken(_: HealthChanged) -> None:
        raise RuntimeError("broken")

    async def broken_later(_: HealthChanged) -> None:
        raise RuntimeError("broken later")

    listeners = Notifier(broken, broken_later, heard.append)
    listeners.notify(change())
    await listeners.aclose()
    assert len(heard) == 1
    assert "broken" in caplog.text
    assert "broken later" in caplog.text


def test_one_that_left_hears_no_more() -> None:
    heard: list[HealthChanged] = []
    listeners = Notifier()
    leave = listeners.add(heard.append)
    listeners.notify(change())
    leave()
    leave()
    listeners.notify(change())
    assert len(heard) == 1


async def test_an_alert_that_hangs_does_not_keep_the_monitor_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listeners_module, "GRACE_S", 0.05)
    cancelled = asyncio.Event()

    async def hang(_: HealthChanged) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    listeners = Notifier(hang)
    listeners.notify(change())
    await listeners.aclose()
    assert cancelled.is_set()
    assert "1 alerts were cancelled" in caplog.text


class Panic(BaseException):
    """What a library in Rust raises: no `Exception`."""


@pytest.mark.parametrize("failure", [ValueError, asyncio.CancelledError, GeneratorExit, Panic])
async def test_an_alert_that_raises_anything_harms_neither_the_others_nor_the_monitor(
    failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def at_once(_: HealthChanged) -> None:
        raise failure("oops")

    async def later(_: HealthChanged) -> None:
        raise failure("oops")

    listeners = Notifier(at_once, later, lambda change: heard.append(change.new))
    listeners.notify(change())
    listeners.notify(change(new="healthy"))
    await listeners.aclose()
    assert heard == ["down", "healthy"]
    assert "a listener failed" in caplog.text
    assert "an alert failed" in caplog.text
