"""Alerts to functions, webhooks and programs."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from foundry_api import AlertCommand, AlertWebhook, HealthChanged, InvalidRequest
from foundry_api.monitor import alerts as alerts_module
from foundry_api.monitor.alerts import Notifier, format_change
from support.monitor_factories import make_sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]

RECORD = """
import json, os, pathlib, sys
variables = {name: os.environ[name] for name in os.environ if name.startswith("FOUNDRY_HEALTH_")}
pathlib.Path(sys.argv[1]).write_text(json.dumps([variables, json.load(sys.stdin), sys.argv[2:]]))
"""


def change(old: str = "healthy", new: str = "down", reason: str = "it is gone") -> HealthChanged:
    sample = make_sample(new, service="http://127.0.0.1:5273", detail=reason)
    return HealthChanged(old=old, new=new, since=1.0, at=2.0, reason=reason, sample=sample)  # type: ignore[arg-type]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that starts a webhook server and returns its URL."""
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


async def test_a_webhook_posts_the_change_and_a_sentence(serve: Serve) -> None:
    requests: list[tuple[str | None, Any]] = []

    async def receive(request: web.Request) -> web.Response:
        requests.append((request.headers.get("X-Key"), await request.json()))
        return web.Response()

    await AlertWebhook(await serve(receive), headers={"X-Key": "k"})(change())
    [(key, body)] = requests
    assert key == "k"
    assert body["text"] == "http://127.0.0.1:5273 is down (was healthy): it is gone"
    assert (body["old"], body["new"], body["since"]) == ("healthy", "down", 1.0)
    assert body["sample"]["service"] == "http://127.0.0.1:5273"


@pytest.mark.parametrize("fault", ["500", "hangs", "nothing there"])
async def test_a_failed_webhook_is_logged_without_its_secret(
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
def test_an_unsafe_webhook_url_is_rejected(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        AlertWebhook(url)
    assert caught.value.field == "webhook"
    assert "pass" not in str(caught.value).replace("password", "")


async def test_a_program_receives_the_change(tmp_path: Path) -> None:
    record_path = tmp_path / "record.json"
    shell_code = "$(touch x); `y`"
    await AlertCommand([sys.executable, "-c", RECORD, str(record_path), shell_code])(change())
    variables, body, arguments = json.loads(record_path.read_text(encoding="utf-8"))
    assert variables == {
        "FOUNDRY_HEALTH_OLD": "healthy",
        "FOUNDRY_HEALTH_NEW": "down",
        "FOUNDRY_HEALTH_REASON": "it is gone",
        "FOUNDRY_HEALTH_SERVICE": "http://127.0.0.1:5273",
        "FOUNDRY_HEALTH_TEXT": "http://127.0.0.1:5273 is down (was healthy): it is gone",
    }
    assert body["new"] == "down"
    assert arguments == [shell_code]


@pytest.mark.parametrize(
    ("command", "timeout_s", "logged"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], 60, "ended with status 3"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], 0.5, "was killed after 0.5 s"),
        (["no-such-program-anywhere"], 60, "cannot be run"),
    ],
)
async def test_a_failed_program_is_logged(
    command: list[str], timeout_s: float, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "foundry_api"):
        await AlertCommand(command, timeout_s=timeout_s)(change())
    assert logged in caplog.text


@pytest.mark.parametrize("command", [[], "rm -rf x"])
def test_a_command_has_to_be_a_list(command: Any) -> None:
    with pytest.raises(InvalidRequest, match="has to be a list"):
        AlertCommand(command)


async def test_a_healthy_start_sends_no_alert(tmp_path: Path) -> None:
    command = AlertCommand(["no-such-program-anywhere"])
    await command(change("unknown", "healthy", ""))
    await AlertWebhook("http://127.0.0.1:9/")(change("unknown", "healthy", ""))


def test_a_change_is_described_in_a_sentence() -> None:
    assert format_change(change("unknown", "down")) == "http://127.0.0.1:5273 is down: it is gone"
    assert (
        format_change(change("down", "healthy", ""))
        == "http://127.0.0.1:5273 is healthy (was down)"
    )


async def test_a_slow_listener_receives_the_changes_in_order() -> None:
    received: list[str] = []

    async def slow(event: HealthChanged) -> None:
        await asyncio.sleep(0.02 if event.new == "down" else 0)
        received.append(event.new)

    notifier = Notifier(slow)
    for new in ("down", "healthy", "degraded"):
        notifier.notify(change(new=new))
    await notifier.aclose()
    assert received == ["down", "healthy", "degraded"]


async def test_a_failing_listener_is_logged_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    received: list[HealthChanged] = []

    def broken(_: HealthChanged) -> None:
        raise RuntimeError("broken")

    async def broken_later(_: HealthChanged) -> None:
        raise RuntimeError("broken later")

    notifier = Notifier(broken, broken_later, received.append)
    notifier.notify(change())
    await notifier.aclose()
    assert len(received) == 1
    assert "broken" in caplog.text
    assert "broken later" in caplog.text


def test_a_removed_listener_is_not_called() -> None:
    received: list[HealthChanged] = []
    notifier = Notifier()
    remove = notifier.add(received.append)
    notifier.notify(change())
    remove()
    remove()
    notifier.notify(change())
    assert len(received) == 1


async def test_an_alert_that_hangs_is_cancelled_when_the_monitor_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alerts_module, "GRACE_S", 0.05)
    cancelled = asyncio.Event()

    async def hang(_: HealthChanged) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    notifier = Notifier(hang)
    notifier.notify(change())
    await notifier.aclose()
    assert cancelled.is_set()
    assert "1 alerts were cancelled" in caplog.text


class Panic(BaseException):
    """Raised by libraries in Rust, and not an `Exception`."""


@pytest.mark.parametrize("failure", [ValueError, asyncio.CancelledError, GeneratorExit, Panic])
async def test_any_exception_of_an_alert_is_logged(
    failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    received: list[str] = []

    def at_once(_: HealthChanged) -> None:
        raise failure("oops")

    async def later(_: HealthChanged) -> None:
        raise failure("oops")

    notifier = Notifier(at_once, later, lambda change: received.append(change.new))
    notifier.notify(change())
    notifier.notify(change(new="healthy"))
    await notifier.aclose()
    assert received == ["down", "healthy"]
    assert "a listener failed" in caplog.text
    assert "an alert failed" in caplog.text
