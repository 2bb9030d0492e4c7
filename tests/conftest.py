"""What every suite shares: waiting for conditions, and one real engine for the whole run."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from foundry_api import FoundryAPIClient
from foundry_api.engine import shared
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.process import HostOptions, get_demo_models
from foundry_api.storage.paths import Paths
from support.scripted_model import build
from support.scripted_model.audio import build_transcriber
from support.scripted_model.embeddings import build_embedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api.engine.endpoint import Endpoint

HOME = "FOUNDRY_TEST_HOME"
"""Where the run's engine lives. Set by the process that starts the workers, read by them."""

settings.register_profile(
    "load", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("load")  # how long an example takes says how busy the machine is


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's own settings and service out of the tests."""
    if _is_worker(config):
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job; so would be all programs that the tests interrupt with Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("FOUNDRY_")]:
        del os.environ[name]
    os.environ[HOME] = tempfile.mkdtemp(prefix="foundry-api-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the run's engine, if any test started it, and leave nothing behind."""
    if _is_worker(config) or HOME not in os.environ:
        return
    home = Path(os.environ.pop(HOME))
    shared.stop(Paths.from_home(home))
    shutil.rmtree(home)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a home of its own, so that none sees another's engine or the developer's."""
    home = tmp_path / "foundry-home"
    monkeypatch.setenv("FOUNDRY_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Endpoint:
    """The run's one engine, with the demo model and the scripted ones. The first worker starts it.

    All workers use it at once: who takes a model out of memory needs an engine of his own.
    It leaves with the run, or after ten idle minutes if the run is killed.
    """
    builders = {"scripted": build, "embedder": build_embedder, "transcriber": build_transcriber}
    models = list(get_demo_models())
    for alias, builder in builders.items():
        directory = tmp_path_factory.mktemp(alias)
        builder(directory)
        models.append(ModelSource(path=str(directory), alias=alias))
    paths = Paths.from_home(Path(os.environ[HOME]))
    options = HostOptions(paths=paths, models=tuple(models))
    endpoint, _ = shared.start(paths, idle_timeout_s=600, options=options)
    return endpoint


@pytest.fixture
async def client(engine: Endpoint) -> AsyncIterator[FoundryAPIClient]:
    """A client of the run's engine, which finds it as any program of the user would."""
    async with FoundryAPIClient(
        home=Path(os.environ[HOME]), model="scripted", max_retries=0
    ) as client:
        yield client
