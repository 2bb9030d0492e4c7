"""`health` without an engine: lines, tables, exit codes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import pytest

from foundry_api import FoundryAPIClient, Settings, UnsupportedFeature
from foundry_api.cli import main
from foundry_api.cli.live import LiveTable
from foundry_api.cli.services import RunningService, health_of
from foundry_api.health import HealthStatus
from foundry_api.service.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

State = Literal["healthy", "degraded", "down"]


def seen(status: State, **members: object) -> HealthStatus:
    return HealthStatus(status=status, checked_at=1_800_000_000.0, **members)  # type: ignore[arg-type]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> list[HealthStatus]:
    """What the looks will see, first one first."""
    looks: list[HealthStatus] = []

    async def health_check(_: RunningService) -> HealthStatus:
        return looks.pop(0)

    monkeypatch.setattr(RunningService, "health_check", health_check)
    return looks


@pytest.mark.parametrize(("status", "code"), [("healthy", 0), ("degraded", 1), ("down", 2)])
def test_the_exit_code_tells_the_state(
    service: list[HealthStatus], status: State, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    service.append(seen(status))
    assert main(["health"]) == code
    assert capsys.readouterr().out.splitlines()[0].endswith(status)


def test_a_look_in_words(service: list[HealthStatus], capsys: pytest.CaptureFixture[str]) -> None:
    service.append(
        seen(
            "degraded",
            service="http://127.0.0.1:1",
            version="2.2.1",
            generation="sdk-2.1",
            loaded_models=("demo:1",),
            memory_usage=310 * 2**20,
            uptime=12.0,
            latency_s=0.004,
            detail="something",
        )
    )
    main(["health"])
    assert capsys.readouterr().out == (
        "http://127.0.0.1:1  degraded\n"
        "  version  2.2.1 (sdk-2.1)\n"
        "  loaded   demo:1\n"
        "  memory   310 MB\n"
        "  uptime   12 s\n"
        "  latency  4 ms\n"
        "  detail   something\n"
    )


def test_watching_a_pipe_prints_a_line_a_look_and_ends_with_the_last_state(
    service: list[HealthStatus], capsys: pytest.CaptureFixture[str]
) -> None:
    service += [seen("down", detail="nothing runs"), seen("healthy", service="http://127.0.0.1:1")]
    assert main(["health", "--count", "2", "--interval", "0.001"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("  ")[1:] == ["down", "-", "nothing runs"]
    assert second.split("  ")[1:] == ["healthy", "http://127.0.0.1:1"]


def test_watching_as_json_prints_a_document_a_line(
    service: list[HealthStatus], capsys: pytest.CaptureFixture[str]
) -> None:
    import msgspec  # noqa: PLC0415 - only here

    looks = [seen("healthy", loaded_models=("demo:1",)), seen("down")]
    service += looks
    assert main(["health", "--json", "--count", "2", "--interval", "0.001"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [msgspec.json.decode(line, type=HealthStatus) for line in lines] == looks


def test_an_interval_of_nothing_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--watch", "--interval", "0"]) == 2
    assert "--interval" in capsys.readouterr().err


async def test_a_service_that_this_client_cannot_use_is_not_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def health_check(_: FoundryAPIClient) -> HealthStatus:
        raise UnsupportedFeature("it is of generation legacy")

    monkeypatch.setattr(FoundryAPIClient, "health_check", health_check)
    endpoint = Endpoint(base_url="http://127.0.0.1:9", generation="legacy", origin="port")
    health = await health_of(endpoint, Settings())
    assert (health.status, health.generation) == ("degraded", "legacy")
    assert "it is of generation legacy" in health.detail


def test_the_table_shows_the_newest_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = draw(
        monkeypatch,
        [
            seen("healthy", loaded_models=(f"model-{index}[bold]",), service="http://127.0.0.1:1")
            for index in range(14)
        ],
    )
    assert "http://127.0.0.1:1" in screen
    assert "model-13[bold]" in screen


def draw(monkeypatch: pytest.MonkeyPatch, looks: Iterable[HealthStatus]) -> str:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    with LiveTable() as table:
        for look in looks:
            table.show(look)
    return screen.getvalue()
