"""Homes, hosts and transports of the service tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.engine.process import HostOptions
from foundry_api.engine.supervisor import EngineHost
from foundry_api.storage.paths import Paths
from foundry_api.wire.http import HttpTransport
from service.helpers import list_hosts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home. No host may run on it after the test."""
    home = tmp_path / "home"
    yield home
    left = list_hosts(home)
    for process in left:
        process.kill()
    assert not left, "the test left engine hosts behind"


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set PATH to an empty directory, so that no installed `foundry` is run."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


@pytest.fixture
def paths(home: Path) -> Paths:
    return Paths.from_home(home)


@pytest.fixture
def options(paths: Paths) -> HostOptions:
    return HostOptions(paths=paths, models=())


@pytest.fixture
def start(paths: Paths) -> Iterator[Callable[..., EngineHost]]:
    """Return a function that starts hosts on the test's home. They end with the test."""
    started: list[EngineHost] = []

    def start(**options: object) -> EngineHost:
        host = EngineHost(HostOptions(paths=paths, **{"models": (), **options}))  # type: ignore[arg-type]
        started.append(host)
        host.start()
        return host

    yield start
    for host in started:
        host.close()


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    await transport.aclose()
