"""`health` without an engine: lines, the live view, options and exit codes."""

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
from support.monitor_factories import make_sample

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
    defaults: dict[str, Any] = {
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
    return make_sample("healthy", **{**defaults, **members})


def test_a_sample_as_fields() -> None:
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


def test_a_sample_as_a_line() -> None:
    assert format_line(make_sample("down", detail="nothing runs")).split("  ")[1:] == [
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


def test_a_sample_as_json_is_one_line_that_can_be_decoded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import msgspec  # noqa: PLC0415 - only here

    sample = full(**BUSY)
    _print_json_line(sample)
    (line,) = capsys.readouterr().out.splitlines()
    assert msgspec.json.decode(line, type=HealthSample) == sample


def test_abandoned_prompts_are_shown() -> None:
    limiter = LimiterStatistics(2, 2, 7, 0, None, abandoned=1)
    assert "7 queued, 1 read for nobody, 5 succeeded" in format_limits(
        full(**{**BUSY, "limiter": limiter})
    )


def test_limits_are_shown_if_there_are_calls() -> None:
    assert format_limits(full(**BUSY)) == (
        "2 of 2 in flight, 7 queued, 5 succeeded, breaker closed"
    )
    idle = {
        "breaker": BreakerStatistics("closed", 0, 0, 0, 0.0, 0.0, 0, 0, 0.0),
        "limiter": LimiterStatistics(2, 0, 0, 0, None),
    }
    assert format_limits(full(**idle)) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_invalid_options_are_usage_errors(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_a_service_every_mode_reports_down(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.engine.discovery.KNOWN_PORTS", ())
    options = ["--base-url", "http://127.0.0.1:9"]
    assert main(["health", *options]) == 2
    assert capsys.readouterr().out.splitlines()[0] == "http://127.0.0.1:9  down"
    assert main(["health", *options, "--count", "2", "--interval", "0.01"]) == 2
    assert [text.split("  ")[1] for text in capsys.readouterr().out.splitlines()] == ["down"] * 2
    assert main(["health", *options, "--until-ready", "0.3"]) == 2
    assert "not ready within 0.3 s" in capsys.readouterr().err


def test_a_summary_of_stored_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "health.db"
    store = SampleStore(path, keep_s=1e9)
    for at in range(10):
        store.add(
            make_sample("down" if at in {4, 5} else "healthy", 1.8e9 + at, memory_usage=2**30)
        )
    store.close()
    assert main(["health", "--summary", "--store", str(path)]) == 0
    output = capsys.readouterr().out
    assert "available  80%" in output
    assert "outages    1, the longest 2 s" in output
    assert "memory     at most 1.0 GB" in output
    assert main(["health", "--summary", "--store", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outages"] == 1


def test_a_summary_without_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "health.db"
    assert main(["health", "--summary", "--store", str(path)]) == 2
    assert "there is no history" in capsys.readouterr().err
    SampleStore(path, keep_s=1e9).close()
    assert main(["health", "--summary", "--store", str(path)]) == 0
    assert capsys.readouterr().out == f"There are no checks in {path}.\n"
    assert dict(make_summary_fields(summarise([])))["available"] == ""


async def test_an_unsupported_service_is_degraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def health_check(_: FoundryAPIClient) -> HealthSample:
        raise UnsupportedFeature("it is of generation legacy")

    monkeypatch.setattr(FoundryAPIClient, "health_check", health_check)
    endpoint = Endpoint(base_url="http://127.0.0.1:9", service_generation="legacy", origin="port")
    health = await check_endpoint(endpoint, Settings())
    assert (health.status, health.service_generation) == ("degraded", "legacy")
    assert "it is of generation legacy" in health.detail


def test_the_view_shows_state_figures_and_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [full(loaded_models=(f"model-{n}[bold]",), **BUSY) for n in range(14)]
    change = HealthChanged(
        old="healthy", new="down", since=1.0, at=2.0, reason="it [red]died", sample=samples[0]
    )
    screen = draw(monkeypatch, samples, change)
    for text in (
        " healthy ",
        URL,
        "model-13[bold]",
        "310 MB",
        "140%",
        "200 ms",
        "1,234",
        "7 queued",
    ):
        assert text in screen
    assert "it [red]died" in screen
    assert "\N{FULL BLOCK}" in screen


def test_the_view_shows_why_a_service_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = draw(monkeypatch, [make_sample("down", detail="no service \x1b[2J is running")])
    assert "no service" in screen
    assert "\\x1b[2J is running" in screen


def test_a_newline_in_a_name_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = "m\ndown  forged"
    sample = full(loaded_models=(forged,), service=forged)
    change = HealthChanged(
        old="healthy", new="down", since=1.0, at=2.0, reason=forged, sample=sample
    )
    monkeypatch.setenv("COLUMNS", "200")
    screen = draw(monkeypatch, [sample, sample], change)
    assert screen.count("m\\ndown  forged") >= 3
    assert "m\ndown" not in screen.replace("\r", "")


def test_a_terminal_without_unicode_gets_ascii_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = draw(monkeypatch, [full(), full()], encoding="ascii")
    assert "##" in screen
    screen.encode("ascii")


@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_view_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    screen = draw(monkeypatch, [full(**BUSY)] * (width + 1))  # more than the plots can show
    assert "140%" in screen


def draw(
    monkeypatch: pytest.MonkeyPatch,
    samples: Iterable[HealthSample],
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
        for sample in samples:
            screen.add_sample(sample)
    return terminal.getvalue()
