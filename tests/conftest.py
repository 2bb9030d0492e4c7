"""Settings and fixtures of all tests, among them one real engine for the whole run."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import sys
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
    from collections.abc import AsyncIterator, Generator, Iterator

    from foundry_api.engine.endpoint import Endpoint

# Collected if they are named: python3 dev.py test --real-model, and --sdks.
collect_ignore = ["real_model", "sdks"]

HOME = "FOUNDRY_TEST_HOME"
"""The home of the shared engine. Set by the main pytest process, read by its workers."""

settings.register_profile(
    "load", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("load")  # the duration of an example depends on the load of the machine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `tests/gateway/test_fuzz.py`."""
    group = parser.getgroup("foundry_api")
    group.addoption("--fuzz-requests", type=int, default=2000, help="mutated requests to send")
    group.addoption("--fuzz-seed", type=int, default=7, help="seed of their mutations")


def pytest_configure(config: pytest.Config) -> None:
    """Isolate the tests from the developer's settings and service."""
    if _is_worker(config):
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a background job of a shell. Child processes inherit it, and tests send them Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Many containers set it. Each worker would compile all tests, and each of more than a thousand
    # processes the package.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    for name in [name for name in os.environ if name.startswith("FOUNDRY_")]:
        del os.environ[name]
    os.environ[HOME] = tempfile.mkdtemp(prefix="foundry-api-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the shared engine, if a test started it, and remove its home."""
    if _is_worker(config) or HOME not in os.environ:
        return
    home = Path(os.environ.pop(HOME))
    shared.stop(Paths.from_home(home))
    shutil.rmtree(home)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the modules and the items, which live to the end, out of every garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of homes. Most tests never create theirs, so none is created here."""
    directory = tmp_path_factory.mktemp("homes")
    return (directory / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_home(homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test its own home, without the engine of another test or of the developer."""
    home = next(homes)
    monkeypatch.setenv("FOUNDRY_HOME", str(home))
    return home


@pytest.fixture
def no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs on a full disk.

    Before 3.12.8, Python keeps a compiled file that it could write only in part, and fails to
    import it from then on.
    """
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Endpoint:
    """Return the shared engine with the demo model and the scripted models.

    The first worker starts it, and all workers use it concurrently, so a test that unloads models
    needs its own engine. It is stopped at the end of the run, or after ten idle minutes if the run
    is killed.
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
    """Return a client that finds the shared engine by its home."""
    async with FoundryAPIClient(
        home=Path(os.environ[HOME]), model="scripted", max_retries=0
    ) as client:
        yield client
