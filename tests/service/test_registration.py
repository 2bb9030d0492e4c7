"""Registering model directories: once, again, changed, moved, and by several hosts at once."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Literal

import pytest

from foundry_api.errors import ModelRegistrationFailed
from foundry_api.service.control import ControlClient
from foundry_api.service.handshake import ModelSource
from foundry_api.service.model_files import ModelFiles, digest
from service.helpers import model_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.service.supervisor import EngineHost
    from foundry_api.wire.http import HttpTransport


async def control_of(host: EngineHost, transport: HttpTransport) -> ControlClient:
    endpoint = await host.ready()
    assert endpoint.control
    return ControlClient(transport, endpoint.control)


async def ids(control: ControlClient) -> list[str]:
    return sorted(model.id for model in await control.local_models())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return model_directory(tmp_path / "model")


async def test_the_same_files_are_registered_once(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    sources = (ModelSource(str(directory), "demo"),)
    for _ in range(2):
        control = await control_of(start(models=sources), transport)
        assert (await control.register(directory, "demo")).id == "demo:1"
        assert (await control.register(directory, "DEMO")).id == "demo:1"
        assert await ids(control) == ["demo:1"]


async def test_changed_files_are_a_new_version_and_the_old_one_goes(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    sources = (ModelSource(str(directory), "demo"),)
    assert await ids(await control_of(start(models=sources), transport)) == ["demo:1"]
    model_directory(directory, content="other weights", context_length=1024)
    control = await control_of(start(models=sources), transport)
    assert await ids(control) == ["demo:2"]
    assert (await control.local_models())[0].context_length == 1024


async def test_a_directory_registered_anew_elsewhere_is_a_new_version(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path, tmp_path: Path
) -> None:
    control = await control_of(start(), transport)
    await control.register(directory, "mine")
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert (await control.register(copy, "mine")).id == "mine:2"
    assert await ids(control) == ["mine:1", "mine:2"]
    shutil.rmtree(directory)
    shutil.rmtree(copy)
    moved = model_directory(tmp_path / "moved")
    assert (await control.register(moved, "mine")).id == "mine:3"
    assert await ids(control) == ["mine:3"]


async def test_two_installations_of_one_home_share_the_demo_model(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(directory, tmp_path / "other-venv")
    for path in (directory, copy, directory):
        control = await control_of(start(models=(ModelSource(str(path), "demo"),)), transport)
        assert await ids(control) == ["demo:1"]
    shutil.rmtree(directory)
    control = await control_of(start(models=(ModelSource(str(copy), "demo"),)), transport)
    assert await ids(control) == ["demo:2"]


async def test_hosts_that_start_at_the_same_instant_on_an_empty_home_agree(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    hosts = [start(models=(ModelSource(str(directory), "demo"),)) for _ in range(3)]
    controls = await asyncio.gather(*(control_of(host, transport) for host in hosts))
    for control in controls:
        assert (await control.host()).problems == ()
        assert await ids(control) == ["demo:1"]


async def test_hosts_that_replace_a_model_at_the_same_instant_agree(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    controls = [await control_of(start(), transport) for _ in range(2)]
    await controls[0].register(directory, "demo")
    model_directory(directory, content="other weights")
    registered = await asyncio.gather(
        *(control.register(directory, "demo") for control in controls)
    )
    assert {model.id for model in registered} == {"demo:2"}
    assert await ids(controls[0]) == await ids(controls[1]) == ["demo:2"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (shutil.rmtree, "there is no such directory"),
        (lambda path: (path / "genai_config.json").unlink(), "it has no genai_config.json"),
        (lambda path: (path / "model.onnx").unlink(), "it has no model.onnx"),
        (lambda path: (path / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (lambda path: configure(path, "{"), "is not JSON"),
        (lambda path: configure(path, "[]"), "has no model section"),
        (lambda path: configure(path, '{"model": 1}'), "has no model section"),
        (lambda path: configure(path, " " * 2**20 + "{}"), "is larger than"),
        (
            lambda path: configure(path, '{"model": {"decoder": {"filename": "../x"}}}'),
            "it has no ../x",
        ),
        (
            lambda path: configure(
                path, '{"model": {"decoder": {"pipeline": [{"embed": {"filename": "e.onnx"}}]}}}'
            ),
            "it has no e.onnx",
        ),
    ],
)
def test_what_a_directory_lacks_is_told(
    directory: Path, spoil: Callable[[Path], object], told: str
) -> None:
    spoil(directory)
    with pytest.raises(ModelRegistrationFailed, match=told):
        ModelFiles.read(directory)


@pytest.mark.parametrize(
    ("provider", "device"),
    [(None, "CPU"), ("cuda", "GPU"), ("WebGPU", "GPU"), ("QNN", "NPU"), ("XNNPACK", "CPU")],
)
def test_the_device_follows_from_the_execution_provider(
    directory: Path, provider: str | None, device: str
) -> None:
    providers = [] if provider is None else [{provider: {}}]
    decoder = {"filename": "model.onnx", "session_options": {"provider_options": providers}}
    configure(directory, json.dumps({"model": {"decoder": decoder}}))
    assert ModelFiles.read(directory).device == device


@pytest.mark.parametrize(
    ("markers", "told"),
    [({"bot_token_id": 5, "eot_token_id": 6}, True), ({"bot_token_id": 5}, None), ({}, None)],
)
async def test_a_model_whose_configuration_names_tool_markers_is_listed_as_calling_tools(
    start: Callable[..., EngineHost],
    transport: HttpTransport,
    directory: Path,
    markers: dict[str, int],
    told: Literal[True] | None,
) -> None:
    model = {"context_length": 512, "decoder": {"filename": "model.onnx"}, **markers}
    configure(directory, json.dumps({"model": model}))
    control = await control_of(start(), transport)
    assert (await control.register(directory, "mine")).supports_tools is told


def test_the_digest_follows_the_files(directory: Path, tmp_path: Path) -> None:
    first = digest(directory)
    assert first == digest(shutil.copytree(directory, tmp_path / "copy"))
    (directory / "model.onnx").write_text("longer than before", encoding="utf-8")
    assert first != digest(directory)
    assert digest(tmp_path / "nothing") is None


def configure(path: Path, text: str) -> None:
    (path / "genai_config.json").write_text(text, encoding="utf-8")
