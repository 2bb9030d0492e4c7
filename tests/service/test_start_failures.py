"""Errors of a host that cannot start.

A package named `foundry_local_sdk` on PYTHONPATH replaces the installed one and simulates a broken
installation.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.engine.host.native import NativeEngine, make_import_error
from foundry_api.engine.models.registry_file import get_registry_path
from foundry_api.engine.process import HostOptions
from foundry_api.types.errors import ConfigurationError, ServiceStartFailed
from service.helpers import DAMAGED_REGISTRIES, list_hosts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.engine.supervisor import EngineHost
    from foundry_api.storage.paths import Paths


@pytest.fixture
def start_broken(tmp_path: Path, start: Callable[..., EngineHost]) -> Callable[..., EngineHost]:
    """Return a function that starts a host with this source as its foundry_local_sdk."""

    def start_broken(source: str, **options: object) -> EngineHost:
        shim = tmp_path / "shim"
        shim.mkdir()
        (shim / "foundry_local_sdk.py").write_text(source, encoding="utf-8")
        return start(environ={**os.environ, "PYTHONPATH": str(shim)}, **options)

    return start_broken


async def wait_failure(host: EngineHost) -> ServiceStartFailed:
    with pytest.raises(ServiceStartFailed) as caught:
        await host.wait_ready()
    assert not host.is_alive
    assert caught.value.log_path == str(host.log_path)
    return caught.value


async def test_a_missing_sdk_has_a_hint_how_to_install_it(
    start_broken: Callable[..., EngineHost],
) -> None:
    error = await wait_failure(
        start_broken("raise ModuleNotFoundError(\"No module named 'foundry_local_sdk'\")")
    )
    assert "cannot be imported" in error.message
    assert "pip install foundry-local-sdk" in error.hint


async def test_a_library_of_the_sdk_that_cannot_be_loaded_is_reported(
    start_broken: Callable[..., EngineHost],
) -> None:
    error = await wait_failure(start_broken("raise OSError('libgomp.so.1: cannot open')"))
    assert "libgomp.so.1" in error.message
    assert "pip install" not in error.hint


def test_a_missing_dll_has_the_redistributable_as_its_hint() -> None:
    """As Windows reports it without the Visual C++ runtime."""
    missing = ImportError("DLL load failed while importing _cffi_bindings: Module not found.")
    hint = make_import_error(missing, platform="win32").hint
    assert "Visual C++ Redistributable" in hint
    assert "vc_redist." in hint
    assert "pip install" not in hint


def test_a_library_that_is_missing_when_the_engine_starts_has_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a slim container image, where the SDK can be imported."""
    # On Windows, the hint is of the libraries of Windows.
    expected = "Visual C++ Redistributable" if sys.platform == "win32" else "libatomic1"

    def load(*_: object, **__: object) -> None:
        raise OSError("libatomic.so.1: cannot open shared object file: No such file or directory")

    sdk: Any = ModuleType("foundry_local_sdk")
    sdk.Configuration = load
    sdk.Configuration.WebService = dict
    sdk.FoundryLocalException = RuntimeError
    for name in ("", ".catalog", ".version"):
        monkeypatch.setitem(sys.modules, f"foundry_local_sdk{name}", sdk)
    config: Any = SimpleNamespace(data_dir="", logs_dir="", catalog_url=None, port=None)
    with pytest.raises(ServiceStartFailed, match="libatomic") as caught:
        NativeEngine.start(config)
    assert expected in caught.value.hint


@pytest.mark.parametrize("damage", DAMAGED_REGISTRIES)
async def test_a_damaged_list_of_registered_models_has_a_hint(
    start: Callable[..., EngineHost], paths: Paths, damage: Callable[[Path], None]
) -> None:
    path = get_registry_path(paths.create())
    path.parent.mkdir(parents=True)
    damage(path)
    error = await wait_failure(start(models=HostOptions(paths=paths).models))
    assert str(path) in error.message
    assert f"Move {path} away" in error.hint
    assert "models register" in error.hint


async def test_a_crash_is_reported_with_the_end_of_the_log(
    start_broken: Callable[..., EngineHost],
) -> None:
    crash = "import os, sys; print('the engine says why'); sys.stdout.flush(); os.abort()"
    error = await wait_failure(start_broken(crash))
    assert "before it served" in error.message
    assert "the engine says why" in error.message
    assert error.log_path
    assert error.log_path in error.hint


async def test_a_host_that_hangs_is_killed(
    start_broken: Callable[..., EngineHost], home: Path
) -> None:
    error = await wait_failure(start_broken("import time; time.sleep(600)", start_timeout_s=0.5))
    assert "within 0.5 s" in error.message
    assert not list_hosts(home)


def test_an_unusable_home_directory_is_an_error(
    start: Callable[..., EngineHost], home: Path
) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where a directory has to be", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        start()
    assert "FOUNDRY_HOME" in caught.value.hint


async def test_a_missing_interpreter_is_an_error(
    start: Callable[..., EngineHost], tmp_path: Path
) -> None:
    with pytest.raises(ServiceStartFailed, match="cannot be started"):
        start(python=str(tmp_path / "python"))
    with pytest.raises(ServiceStartFailed, match="own executable"):
        start(python="")


async def test_modules_in_the_working_directory_are_not_imported(
    start: Callable[..., EngineHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "socket", "msgspec", "aiohttp", "foundry_local_sdk"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not me')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert (await start(python=sys.executable).wait_ready()).pid


async def test_relative_python_paths_start_from_the_caller(
    start: Callable[..., EngineHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has another working directory than the caller."""
    (tmp_path / "vendored").mkdir()
    module = tmp_path / "vendored" / "foundry_local_sdk.py"
    module.write_text("raise ImportError('the vendored one')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "vendored")
    with pytest.raises(ServiceStartFailed, match="the vendored one"):
        await start(python=sys.executable).wait_ready()
