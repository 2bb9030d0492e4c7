"""`health` without an engine: lines, screens, options and exit codes."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    BreakerStatistics,
    Canary,
    FoundryAPIClient,
    HealthChanged,
    HealthSample,
    LimiterStatistics,
    Settings,
    Traffic,
    UnsupportedFeature,
)
from foundry_api.cli import main
from foundry_api.cli.health import _print_json_line
from foundry_api.cli.health_view import (
    LiveView,
    format_limits,
    format_line,
    make_sample_fields,
    make_summary_fields,
)
from foundry_api.cli.services import check_endpoint
from foundry_api.engine.endpoint import Endpoint
from foundry_api.monitor.store import SampleStore
from foundry_api.monitor.summary import summarise
from support.monitor_factories import seen

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

URL = "http://127.0.0.1:1"
BUSY = {
    "breaker": BreakerStatistics("closed", 3, 0, 0, 0.0, 0.0, 0, 0, 0.0),
    "limiter": LimiterStatistics(2, 2, 7, 0, None),
    "traffic": Traffic(answered=5, time_to_first_token_s=0.2, tokens_per_second=1234.5),
}


def full(**members: Any) -> HealthSample:
    told: dict[str, Any] = {
        "service": URL,
        "version": "2.2.1",
        "service_generation": "sdk-2.1",
        "loaded_models": ("demo:1",),
        "memory_usage": 310 * 2**20,
        "uptime": 12.0,
        "latency_s": 0.004,
        "threads": 9,
        "cpu_percent": 140.4,
    }
    return seen("healthy", **{**told, **members})


def test_a_look_in_words() -> None:
    canary = Canary(outcome="answered", model="demo:1", time_to_first_token_s=0.02, at=1.8e9 - 30)
    assert [
        field for field in make_sample_fields(full(canary=canary, detail="a thing")) if field[1]
    ] == [
        ("version", "2.2.1 (sdk-2.1)"),
        ("loaded", "demo:1"),
        ("memory", "310 MB"),
        ("uptime", "12 s"),
        ("latency", "4 ms"),
        ("threads", "9"),
        ("canary", "demo:1 answered 30 s ago, first token 20 ms"),
        ("detail", "a thing"),
    ]


def test_a_look_in_a_line() -> None:
    assert format_line(seen("down", detail="nothing runs")).split("  ")[1:] == [
        "down",
        "-",
        "nothing runs",
    ]
    assert format_line(full(traffic=BUSY["traffic"])).split("  ")[1:] == [
        "healthy",
        URL,
        "4 ms",
        "310 MB",
        "CPU 140%",
        "first token 200 ms",
        "1,234 tokens/s",
        "demo:1",
    ]


def test_a_look_as_json_is_one_line_that_can_be_read_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import msgspec  # noqa: PLC0415 - only here

    sample = full(**BUSY)
    _print_json_line(sample)
    (told,) = capsys.readouterr().out.splitlines()
    assert msgspec.json.decode(told, type=HealthSample) == sample


def test_guards_are_told_where_there_are_calls() -> None:
    assert format_limits(full(**BUSY)) == (
        "2 of 2 in flight, 7 queued, 5 succeeded, breaker closed"
    )
    idle = {
        "breaker": BreakerStatistics("closed", 0, 0, 0, 0.0, 0.0, 0, 0, 0.0),
        "limiter": LimiterStatistics(2, 0, 0, 0, None),
    }
    assert format_limits(full(**idle)) == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--watch", "--interval", "0"], "--interval"),
        (["--until-ready", "5", "--watch"], "--until-ready"),
        (["--canary", "0"], "--canary"),
        (["--summary"], "--store FILE"),
        (["--webhook", "http://example.org/x"], "webhook"),
        (["--alert-command", "'open"], "--alert-command"),
        (["--alert-command", ""], "list"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_without_a_service_it_is_down_however_one_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.engine.discovery.KNOWN_PORTS", ())
    here = ["--base-url", "http://127.0.0.1:9"]
    assert main(["health", *here]) == 2
    assert capsys.readouterr().out.splitlines()[0] == "http://127.0.0.1:9  down"
    assert main(["health", *here, "--count", "2", "--interval", "0.01"]) == 2
    assert [text.split("  ")[1] for text in capsys.readouterr().out.splitlines()] == ["down"] * 2
    assert main(["health", *here, "--until-ready", "0.3"]) == 2
    assert "not ready within 0.3 s" in capsys.readouterr().err


def test_a_summary_of_what_was_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "health.db"
    store = SampleStore(path, keep_s=1e9)
    for at in range(10):
        store.add(seen("down" if at in {4, 5} else "healthy", 1.8e9 + at, memory_usage=2**30))
    store.close()
    assert main(["health", "--summary", "--store", str(path)]) == 0
    told = capsys.readouterr().out
    assert "available  80%" in told
    assert "outages    1, the longest 2 s" in told
    assert "memory     at most 1.0 GB" in told
    assert main(["health", "--summary", "--store", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outages"] == 1


def test_a_summary_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "health.db"
    assert main(["health", "--summary", "--store", str(path)]) == 2
    assert "there is no history" in capsys.readouterr().err
    SampleStore(path, keep_s=1e9).close()
    assert main(["health", "--summary", "--store", str(path)]) == 0
    assert capsys.readouterr().out == f"There are no checks in {path}.\n"
    assert dict(make_summary_fields(summarise([])))["available"] == ""


async def test_a_service_that_this_client_cannot_use_is_not_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def health_check(_: FoundryAPIClient) -> HealthSample:
        raise UnsupportedFeature("it is of generation legacy")

    monkeypatch.setattr(FoundryAPIClient, "health_check", health_check)
    endpoint = Endpoint(base_url="http://127.0.0.1:9", service_generation="legacy", origin="port")
    health = await check_endpoint(endpoint, Settings())
    assert (health.status, health.service_generation) == ("degraded", "legacy")
    assert "it is of generation legacy" in health.detail


def test_the_screen_shows_state_figures_and_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [full(loaded_models=(f"model-{n}[bold]",), **BUSY) for n in range(14)]
    change = HealthChanged(
        old="healthy", new="down", since=1.0, at=2.0, reason="it [red]died", sample=looks[0]
    )
    screen = draw(monkeypatch, looks, change)
    for told in (
        " healthy ",
        URL,
        "model-13[bold]",
        "310 MB",
        "140%",
        "200 ms",
        "1,234",
        "7 queued",
    ):
        assert told in screen
    assert "it [red]died" in screen
    assert "\N{FULL BLOCK}" in screen


def test_the_screen_of_a_service_that_is_down_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = draw(monkeypatch, [seen("down", detail="no service \x1b[2J is running")])
    assert "no service" in screen
    assert "\\x1b[2J is running" in screen


def test_a_name_takes_one_line_of_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = "m\ndown  forged"
    look = full(loaded_models=(forged,), service=forged)
    change = HealthChanged(old="healthy", new="down", since=1.0, at=2.0, reason=forged, sample=look)
    monkeypatch.setenv("COLUMNS", "200")
    screen = draw(monkeypatch, [look, look], change)
    assert screen.count("m\\ndown  forged") >= 3
    assert "m\ndown" not in screen.replace("\r", "")


def test_a_terminal_without_unicode_gets_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = draw(monkeypatch, [full(), full()], encoding="ascii")
    assert "##" in screen
    screen.encode("ascii")


@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_screen_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    screen = draw(monkeypatch, [full(**BUSY)] * 300)
    assert "140%" in screen


def draw(
    monkeypatch: pytest.MonkeyPatch,
    looks: Iterable[HealthSample],
    *changes: HealthChanged,
    encoding: str = "utf-8",
) -> str:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    Terminal.encoding = encoding  # type: ignore[misc]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    with LiveView() as screen:
        for change in changes:
            screen.add_change(change)
        for look in looks:
            screen.add_sample(look)
    return terminal.getvalue()
