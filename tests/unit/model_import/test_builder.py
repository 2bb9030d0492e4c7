"""Installing the packages that convert models, with a fake in place of pip."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from foundry_api.model_import import builder as builder_module
from foundry_api.model_import.builder import REQUIREMENTS, hold_lock
from foundry_api.model_import.errors import ModelBuilderMissing, ModelImportFailed
from support.fakes.fake_builder import FakeBuilder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the fake Python is a script")

PIP_LINES = [
    "Collecting torch==2.13.0 (from -r requirements.txt)",
    "  Downloading torch-2.13.0-cp311-manylinux.whl (526.6 MB)",
    "Progress 1048576 of 552205516",
    "Installing collected packages: torch",
    "Successfully installed torch-2.13.0",
]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    fake = FakeBuilder(tmp_path / "home")
    monkeypatch.setattr("venv.create", fake.write_interpreter)
    return fake


def ignore(*_: object) -> None:
    pass


async def test_the_packages_are_installed_once(fake: FakeBuilder) -> None:
    fake.set(pip=PIP_LINES)
    steps: list[tuple[float | None, str]] = []
    with pytest.raises(ModelBuilderMissing, match="GB"):
        fake.builder.require_ready()
    await fake.builder.set_up(lambda *step: steps.append(step))
    fake.builder.require_ready()
    assert fake.runs == ["pip", "pip", "modules"]
    assert (None, "creating the environment") in steps
    assert "torch, 1 MB of 527 MB" in [detail for _, detail in steps]
    await fake.builder.set_up(ignore)
    assert fake.runs == ["pip", "pip", "modules"]


async def test_other_pins_are_installed_again(fake: FakeBuilder, tmp_path: Path) -> None:
    await fake.builder.set_up(ignore)
    pins = tmp_path / "other.txt"
    pins.write_text("torch==1\n", encoding="utf-8")
    other = builder_module.Builder(fake.builder.directory, requirements=pins)
    assert not other.is_ready()
    await other.set_up(ignore)
    assert other.is_ready()
    assert not fake.builder.is_ready()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0", "64-bit Python 3.11"),
        ("ERROR: Could not install packages due to an OSError: no space left", "continues"),
    ],
)
async def test_the_reason_of_pip_is_in_the_error(fake: FakeBuilder, line: str, hint: str) -> None:
    fake.set(pip=["Collecting torch", line])
    with pytest.raises(ModelImportFailed) as failure:
        await fake.builder.set_up(ignore)
    assert line.removeprefix("ERROR: ") in failure.value.message
    assert hint in failure.value.hint
    assert failure.value.step == "setup"
    fake.set(pip=PIP_LINES)
    await fake.builder.set_up(ignore)
    assert fake.builder.is_ready()


async def test_an_environment_that_was_not_completed_is_made_again(fake: FakeBuilder) -> None:
    await fake.builder.set_up(ignore)
    (fake.builder.directory / "installed").unlink()
    (fake.builder.directory / "origin").unlink()
    shutil.rmtree(fake.builder.interpreter.parent)
    await fake.builder.set_up(ignore)
    assert fake.builder.is_ready()


async def test_an_environment_without_its_python_is_not_ready(fake: FakeBuilder) -> None:
    await fake.builder.set_up(ignore)
    fake.builder.interpreter.unlink()
    assert not fake.builder.is_ready()
    await fake.builder.set_up(ignore)
    assert fake.builder.is_ready()


async def test_two_programs_install_once(fake: FakeBuilder) -> None:
    waiting: list[str] = []
    is_waiting = asyncio.Event()

    def report(_: object, detail: str) -> None:
        waiting.append(detail)
        is_waiting.set()

    fake.builder.directory.mkdir(parents=True)
    async with hold_lock(fake.builder.directory / "setup.lock", ignore):
        task = asyncio.create_task(fake.builder.set_up(report))
        await is_waiting.wait()
        fake.install()
    await task
    assert waiting == ["waiting for another program that installs the packages"]
    assert fake.runs == []


async def test_a_full_disk_is_named_before_anything_is_installed(
    fake: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_module, "MIN_FREE_BYTES", 2**80)
    with pytest.raises(ModelImportFailed, match="free; the packages that convert models need"):
        await fake.builder.set_up(ignore)
    assert fake.runs == []


async def test_a_directory_that_cannot_be_made(fake: FakeBuilder) -> None:
    fake.builder.directory.parent.mkdir(parents=True, exist_ok=True)
    fake.builder.directory.write_text("a file", encoding="utf-8")
    with pytest.raises(ModelImportFailed, match="cannot be used"):
        await fake.builder.set_up(ignore)


def test_every_package_is_pinned() -> None:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert len(packages) > 5
    assert all("==" in line for line in packages)
