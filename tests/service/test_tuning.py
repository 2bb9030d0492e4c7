"""Registered models run with settings for speed, and everything else names the user's directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.engine import process, shared
from foundry_api.engine.models.registry_file import read_registered
from foundry_api.engine.models.tuning import CHUNK_TOKENS
from foundry_api.storage.paths import Paths
from support.cli_program import run
from support.scripted_model import build, script

if TYPE_CHECKING:
    from collections.abc import Mapping

DEMO = Path(process.__file__).parent / "demo_model"
LONG_TEXT = "The sea is calm today. " * 100


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the demo model, which can chat, call tools and embed."""
    return Path(shutil.copytree(DEMO, tmp_path / "mine"))


def read_files(directory: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def list_engine_directories(home: Path) -> list[Path]:
    """List the directories that the engine has of the user's models."""
    paths = Paths.from_home(home)
    return [Path(m.model_path) for m in read_registered(paths) if m.model_info.alias != "demo"]


def read_config(directory: Path) -> dict[str, dict[str, object]]:
    config: dict[str, dict[str, object]] = json.loads(
        (directory / "genai_config.json").read_text(encoding="utf-8")
    )
    return config


def read_threads(directory: Path) -> object:
    decoder = read_config(directory)["model"]["decoder"]
    assert isinstance(decoder, dict)
    return decoder["session_options"].get("intra_op_num_threads")


async def test_a_tuned_model_chats_answers_in_json_and_embeds(
    demo: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_files(demo)
    monkeypatch.setenv("FOUNDRY_ENGINE_THREADS", "2")
    async with FoundryAPIClient(service="embedded", home=home, timeout=60) as client:
        model = await client.models.register(demo, "mine")
        assert (model.id, model.path, model.cached) == ("mine:1", str(demo), True)
        [tuned] = list_engine_directories(home)
        assert tuned != demo
        assert read_threads(tuned) == 2
        for question in ("What is 2 + 3?", "Hello"):
            answers = [
                (await client.complete(question, model=name, temperature=0.0)).content
                for name in ("mine", "demo")
            ]
            assert answers[0] == answers[1] != ""
        choice = await client.complete("Yes or no?", model="mine", choice=["yes", "no"])
        assert choice.parsed in {"yes", "no"}
        # The engine embeds a text only if it reads it at once.
        vectors = [(await client.embed(LONG_TEXT, model=name)).vectors for name in ("mine", "demo")]
        assert vectors[0] == vectors[1]
    assert read_files(demo) == before


async def test_a_model_without_embeddings_reads_prompts_in_parts(
    home: Path, tmp_path: Path
) -> None:
    build(tmp_path / "scripted")
    async with FoundryAPIClient(service="embedded", home=home, timeout=60) as client:
        await client.models.register(tmp_path / "scripted", "scripted")
        [tuned] = list_engine_directories(home)
        assert read_config(tuned)["search"]["chunk_size"] == CHUNK_TOKENS
        answer = await client.complete(f"{LONG_TEXT} say-hello", model="scripted")
        assert answer.content == script("say-hello").text
        assert answer.usage.prompt_tokens > 2 * CHUNK_TOKENS


async def test_unregistering_removes_the_engines_directory_only(demo: Path, home: Path) -> None:
    before = read_files(demo)
    async with FoundryAPIClient(service="embedded", home=home) as client:
        for alias in ("mine", "yours"):
            await client.models.register(demo, alias)
        [tuned] = set(list_engine_directories(home))
        await client.models.unregister("mine")
        assert (tuned / "files" / "model.onnx").is_file()  # the other alias uses it
        await client.models.unregister("yours")
        assert not tuned.exists()
    assert read_files(demo) == before


async def test_a_changed_configuration_is_a_new_version(demo: Path, home: Path) -> None:
    async with FoundryAPIClient(service="embedded", home=home) as client:
        await client.models.register(demo, "mine")
        config = read_config(demo)
        config["search"]["temperature"] = 0.125
        (demo / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
        assert (await client.models.register(demo, "mine")).id == "mine:2"
        [tuned] = list_engine_directories(home)
        assert read_config(tuned)["search"]["temperature"] == 0.125


async def test_a_deleted_directory_is_no_longer_cached(demo: Path, home: Path) -> None:
    async with FoundryAPIClient(service="embedded", home=home) as client:
        await client.models.register(demo, "mine")
        shutil.rmtree(demo)
        [model] = [model for model in await client.models.list() if model.alias == "mine"]
        assert (model.cached, model.path) == (False, None)


async def test_a_model_that_needs_its_own_directory_is_registered_as_it_is(
    demo: Path, home: Path
) -> None:
    config = read_config(demo)
    config["model"]["tokenizer_dir"] = "."  # type: ignore[assignment] # a valid setting
    (demo / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    async with FoundryAPIClient(service="embedded", home=home) as client:
        await client.models.register(demo, "mine")
        assert list_engine_directories(home) == [demo]


async def test_without_a_place_for_it_the_own_directory_is_registered(
    demo: Path, home: Path
) -> None:
    (Paths.from_home(home).create().data / "registered").write_text("a file", encoding="utf-8")
    async with FoundryAPIClient(service="embedded", home=home) as client:
        await client.models.register(demo, "mine")
        assert list_engine_directories(home) == [demo]
        await client.models.unregister("mine")
    [log] = Paths.from_home(home).logs.glob("host-*.log")
    assert f"{demo} is served without settings for speed" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("threads", ["1", "3"])
def test_each_start_of_a_host_applies_its_own_threads(
    demo: Path, own_home: Path, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths.from_home(own_home)
    try:
        assert (
            run("models", "register", str(demo), "--alias", "mine", home=own_home).returncode == 0
        )
        monkeypatch.setenv("FOUNDRY_ENGINE_THREADS", threads)
        assert run("up", home=own_home).returncode == 0
        [tuned] = list_engine_directories(own_home)
        assert read_threads(tuned) == int(threads)
    finally:
        shared.stop(paths)


async def test_a_damaged_directory_of_the_engine_is_made_again(demo: Path, home: Path) -> None:
    async with FoundryAPIClient(service="embedded", home=home, timeout=60) as client:
        await client.models.register(demo, "mine")
        [tuned] = list_engine_directories(home)
        for damage in ("garbage", ""):
            (tuned / "genai_config.json").write_text(damage, encoding="utf-8")
            assert (await client.models.register(demo, "mine")).id == "mine:1"
        (tuned / "files").unlink()
    async with FoundryAPIClient(service="embedded", home=home, timeout=60) as client:
        assert (await client.complete("Hello", model="mine", max_tokens=2)).content


async def test_models_are_found_after_the_home_was_moved(demo: Path, tmp_path: Path) -> None:
    home, moved = tmp_path / "home", tmp_path / "moved"
    async with FoundryAPIClient(service="embedded", home=home) as client:
        await client.models.register(demo, "mine")
    home.rename(moved)
    async with FoundryAPIClient(service="embedded", home=moved, timeout=60) as client:
        assert sorted(model.alias for model in await client.models.list()) == ["demo", "mine"]
        for name in ("demo", "mine"):
            assert (await client.complete("Hello", model=name, max_tokens=2)).content
    assert {path.parent.parent for path in list_engine_directories(moved)} == {moved / "engine"}
