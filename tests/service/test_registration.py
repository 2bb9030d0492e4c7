"""Registering model directories: repeated, changed, moved, and by several hosts concurrently."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from foundry_api import FoundryClient
from foundry_api.engine.control import ControlClient
from foundry_api.engine.handshake import ModelSource
from foundry_api.engine.models.directory import ModelFiles, compute_digest
from foundry_api.engine.models.validate import validate
from foundry_api.engine.process import HostOptions, get_demo_models
from foundry_api.engine.supervisor import EngineHost
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import InvalidRequest, ModelRegistrationFailed
from foundry_api.types.settings import Settings
from foundry_api.wire.transport import Request, fetch
from service.helpers import make_model_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.wire.http import HttpTransport


async def get_control(host: EngineHost, transport: HttpTransport) -> ControlClient:
    endpoint = await host.wait_ready()
    assert endpoint.control
    return ControlClient(transport, endpoint.control)


async def list_ids(control: ControlClient) -> list[str]:
    return sorted(model.id for model in await control.list_local_models())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


async def test_the_same_files_are_registered_once(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    sources = (ModelSource(str(directory), "demo"),)
    for _ in range(2):
        control = await get_control(start(models=sources), transport)
        assert (await control.register(directory, "demo")).id == "demo:1"
        assert (await control.register(directory, "DEMO")).id == "demo:1"
        assert await list_ids(control) == ["demo:1"]


async def test_a_relative_path_starts_from_the_callers_directory(
    start: Callable[..., EngineHost],
    transport: HttpTransport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    """The host has another working directory."""
    caller_dir = tmp_path / "caller_dir"
    make_model_directory(caller_dir / "model")
    monkeypatch.chdir(caller_dir)
    control = await get_control(start(), transport)
    paths = ("model", "./model", "../caller_dir/model", "model/", Path("model"))
    for number, path in enumerate(paths):
        with subtests.test(path=path):
            alias = f"mine-{number}"
            assert (await control.register(path, alias)).id == f"{alias}:1"
            assert (await control.register(caller_dir / "model", alias)).id == f"{alias}:1"


async def test_a_tilde_is_the_callers_home_directory(
    start: Callable[..., EngineHost],
    transport: HttpTransport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    control = await get_control(start(), transport)
    make_model_directory(tmp_path / "me" / "model")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "me"))
    assert (await control.register("~/model", "mine")).id == "mine:1"


@pytest.mark.parametrize("name", ["Jörg Müller", "日本 😀"])
def test_the_home_and_models_may_be_in_directories_of_any_name(tmp_path: Path, name: str) -> None:
    """On Windows, the engine took the paths for text in the system's code page."""
    profile = tmp_path / name
    model = profile / "model"
    shutil.copytree(get_demo_models()[0].path, model)
    with FoundryClient(home=profile / "home", service="embedded") as client:
        client.models.register(model, "mine")
        assert client.complete("Hello", model="mine", max_tokens=5).content
    assert list(tmp_path.iterdir()) == [profile]


INVALID_PATHS: list[Any] = ["", "  ", "a\0b", "a\udcff", 5, None]
if sys.platform != "win32":  # it takes any name for that of a profile
    INVALID_PATHS.append("~nobody-of-that-name/x")


async def test_an_invalid_path_is_rejected(
    start: Callable[..., EngineHost], transport: HttpTransport, subtests: pytest.Subtests
) -> None:
    control = await get_control(start(), transport)
    for path in INVALID_PATHS:
        with subtests.test(path=ascii(path)):
            with pytest.raises(InvalidRequest, match=r"^path is ") as caught:
                await control.register(path, "mine")
            assert caught.value.field == "path"


async def test_an_invalid_alias_is_rejected(
    start: Callable[..., EngineHost],
    transport: HttpTransport,
    directory: Path,
    subtests: pytest.Subtests,
) -> None:
    """The engine would serve a model whose alias ends with a device as `demo` or `x`."""
    control = await get_control(start(models=(ModelSource(str(directory), "demo"),)), transport)
    for alias in ("mine:1", "a/b", "a b", " mine", "mine ", "-mine", ".mine", "größe", "a%3Ab"):
        with subtests.test(alias=alias):
            with pytest.raises(InvalidRequest, match="cannot be the alias") as caught:
                await control.register(directory, alias)
            assert (caught.value.field, repr(alias) in caught.value.message) == ("alias", True)
    for alias in ("demo-generic-cpu", "DEMO-Generic-GPU", "x-generic-npu"):
        with subtests.test(alias=alias):
            with pytest.raises(InvalidRequest, match="as a device") as caught:
                await control.register(directory, alias)
            assert caught.value.field == "alias"
    assert await list_ids(control) == ["demo:1"]


async def test_an_alias_may_contain_a_device_elsewhere(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    control = await get_control(start(), transport)
    for alias in ("x-generic-cpu-2", "x-cuda-gpu", "v1.5_x"):
        assert (await control.register(directory, alias)).alias == alias


async def test_a_host_rejects_a_relative_path(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    address = (await start().wait_ready()).control
    assert address
    request = Request(
        "POST",
        f"{address.url}/models",
        {"Authorization": f"Bearer {address.token}"},
        json.dumps({"path": directory.name, "alias": "mine"}).encode(),
    )
    reply = await fetch(transport, request, timeout_s=10)
    assert (reply.status, json.loads(reply.body)["kind"]) == (400, "InvalidRequest")
    assert "not absolute" in json.loads(reply.body)["message"]


async def test_foundry_home_may_be_relative(
    transport: HttpTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paths that the host receives are absolute, and so are those of its log and state."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDRY_HOME", "home")
    settings = Settings.from_environment()
    assert settings.home == tmp_path / "home"
    host = EngineHost(HostOptions(paths=Paths.from_home(settings.home), models=()))
    try:
        assert await list_ids(await get_control(host, transport)) == []
        assert Path(host.log_path or "").parent == tmp_path / "home" / "logs"
    finally:
        host.close()


def test_platform_directories_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "relative")
    paths = Paths.from_home()
    assert all(path.is_absolute() for path in (paths.data, paths.logs, paths.state, paths.cache))


async def test_changed_files_replace_the_old_version(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    sources = (ModelSource(str(directory), "demo"),)
    assert await list_ids(await get_control(start(models=sources), transport)) == ["demo:1"]
    make_model_directory(directory, content="other weights", context_length=1024)
    control = await get_control(start(models=sources), transport)
    assert await list_ids(control) == ["demo:2"]
    assert (await control.list_local_models())[0].context_length == 1024


async def test_a_changed_model_card_needs_no_new_version(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    sources = (ModelSource(str(directory), "demo"),)
    control = await get_control(start(models=sources), transport)
    await control.register(directory, "mine")
    (directory / "MODEL_CARD.md").write_text("It is small.", encoding="utf-8")
    control = await get_control(start(models=sources), transport)
    assert (await control.register(directory, "mine")).id == "mine:1"
    assert await list_ids(control) == ["demo:1", "mine:1"]


async def test_a_directory_at_another_path_is_a_new_version(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path, tmp_path: Path
) -> None:
    control = await get_control(start(), transport)
    await control.register(directory, "mine")
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert (await control.register(copy, "mine")).id == "mine:2"
    assert await list_ids(control) == ["mine:1", "mine:2"]
    shutil.rmtree(directory)
    shutil.rmtree(copy)
    moved = make_model_directory(tmp_path / "moved")
    assert (await control.register(moved, "mine")).id == "mine:3"
    assert await list_ids(control) == ["mine:3"]


async def test_two_installations_share_the_demo_model(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(directory, tmp_path / "other-venv")
    for path in (directory, copy, directory):
        control = await get_control(start(models=(ModelSource(str(path), "demo"),)), transport)
        assert await list_ids(control) == ["demo:1"]
    shutil.rmtree(directory)
    control = await get_control(start(models=(ModelSource(str(copy), "demo"),)), transport)
    assert await list_ids(control) == ["demo:2"]


async def test_hosts_that_start_concurrently_register_one_version(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    hosts = [start(models=(ModelSource(str(directory), "demo"),)) for _ in range(3)]
    controls = await asyncio.gather(*(get_control(host, transport) for host in hosts))
    for control in controls:
        assert (await control.get_host_info()).problems == ()
        assert await list_ids(control) == ["demo:1"]


async def test_hosts_that_replace_a_model_concurrently_agree(
    start: Callable[..., EngineHost], transport: HttpTransport, directory: Path
) -> None:
    controls = [await get_control(start(), transport) for _ in range(2)]
    await controls[0].register(directory, "demo")
    make_model_directory(directory, content="other weights")
    registered = await asyncio.gather(
        *(control.register(directory, "demo") for control in controls)
    )
    assert {model.id for model in registered} == {"demo:2"}
    assert await list_ids(controls[0]) == await list_ids(controls[1]) == ["demo:2"]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (shutil.rmtree, "there is no such directory"),
        (lambda path: (path / "genai_config.json").unlink(), "it has no genai_config.json"),
        (lambda path: (path / "model.onnx").unlink(), "it has no model.onnx"),
        (lambda path: (path / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (lambda path: configure(path, "{"), "is not JSON"),
        (lambda path: configure(path, "[]"), "has no model section"),
        (lambda path: configure(path, '{"model": 1}'), "has no model section"),
        (lambda path: configure(path, '{"model": {"type": []}}'), "model.type that is not a text"),
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
def test_a_missing_or_invalid_file_is_reported(
    directory: Path, spoil: Callable[[Path], object], expected: str
) -> None:
    spoil(directory)
    with pytest.raises(ModelRegistrationFailed, match=expected):
        ModelFiles.read(directory)


def test_a_model_in_another_format_is_to_be_imported(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for path, problem in ((file, "it is not a directory"), (tmp_path, "no genai_config.json")):
        with pytest.raises(ModelRegistrationFailed, match=problem) as failure:
            validate(path)
        assert f"foundry-api models import {path} --alias NAME" in failure.value.hint


@pytest.mark.parametrize(
    ("provider", "device"),
    [(None, "CPU"), ("cuda", "GPU"), ("WebGPU", "GPU"), ("QNN", "NPU"), ("XNNPACK", "CPU")],
)
def test_the_device_depends_on_the_execution_provider(
    directory: Path, provider: str | None, device: str
) -> None:
    providers = [] if provider is None else [{provider: {}}]
    decoder = {"filename": "model.onnx", "session_options": {"provider_options": providers}}
    configure(directory, json.dumps({"model": {"decoder": decoder}}))
    assert ModelFiles.read(directory).device == device


async def test_a_model_with_tool_markers_supports_tools(
    start: Callable[..., EngineHost],
    transport: HttpTransport,
    directory: Path,
    tmp_path: Path,
    subtests: pytest.Subtests,
) -> None:
    control = await get_control(start(), transport)
    cases: dict[str, tuple[dict[str, int], Literal[True] | None]] = {
        "both": ({"bot_token_id": 5, "eot_token_id": 6}, True),
        "one": ({"bot_token_id": 5}, None),
        "none": ({}, None),
    }
    for name, (markers, expected) in cases.items():
        with subtests.test(markers=name):
            copy = shutil.copytree(directory, tmp_path / name)
            model = {"context_length": 512, "decoder": {"filename": "model.onnx"}, **markers}
            configure(copy, json.dumps({"model": model}))
            assert (await control.register(copy, name)).supports_tools is expected


def test_the_digest_depends_on_the_files(directory: Path, tmp_path: Path) -> None:
    first = compute_digest(directory)
    assert first == compute_digest(shutil.copytree(directory, tmp_path / "copy"))
    (directory / "model.onnx").write_text("longer than before", encoding="utf-8")
    assert first != compute_digest(directory)
    assert compute_digest(tmp_path / "nothing") is None


def configure(path: Path, text: str) -> None:
    (path / "genai_config.json").write_text(text, encoding="utf-8")
