"""The demo model of the package cannot be removed from a shared engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import InvalidRequest, ModelInUse, ModelNotFound
from support.cli_program import run
from support.scripted_model import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(own_home: Path) -> Iterator[Path]:
    """A home with a shared engine."""
    paths = Paths.from_home(own_home)
    shared.start(paths, idle_timeout_s=60)
    yield own_home
    shared.stop(paths)


@pytest.fixture
def bare_home(own_home: Path) -> Iterator[Path]:
    """A home whose shared engine lacks the model, which an older version may have removed."""
    paths = Paths.from_home(own_home)
    shared.start(paths, idle_timeout_s=60, options=HostOptions(paths=paths, models=()))
    yield own_home
    shared.stop(paths)


@pytest.mark.parametrize("name", ["demo", "DEMO", "demo:1"])
def test_the_command_line_does_not_remove_the_demo_model(home: Path, name: str) -> None:
    refused = run("models", "remove", "-y", name, home=home)
    assert refused.returncode == 2
    known = name.lower()
    assert f"{known} comes with this package" in refused.stderr
    assert f"`foundry-api models unload {known}` unloads it" in refused.stderr
    assert run("chat", "-m", "demo", "hi", home=home).returncode == 0


@pytest.mark.parametrize("alias", ["demo", "DEMO"])
async def test_no_other_model_takes_the_alias_of_the_demo_model(
    home: Path, tmp_path: Path, alias: str
) -> None:
    build(tmp_path / "mine")
    refused = run("models", "register", str(tmp_path / "mine"), "--alias", alias, home=home)
    assert refused.returncode == 2
    assert f"{alias} is the name of a model that comes with this package" in refused.stderr
    assert "under another alias" in refused.stderr
    async with FoundryAPIClient() as client:
        with pytest.raises(InvalidRequest, match=alias) as caught:
            await client.models.register(tmp_path / "mine", alias)
        assert (caught.value.field, caught.value.model) == ("alias", alias)
        assert [model.id for model in await client.models.list()] == ["demo:1"]


async def test_unregister_removes_the_users_model_of_the_same_name(
    bare_home: Path, tmp_path: Path
) -> None:
    """Older versions let the user register one."""
    build(tmp_path / "mine")
    async with FoundryAPIClient() as client:
        assert (await client.models.register(tmp_path / "mine", "demo")).id == "demo:1"
    shared.stop(Paths.from_home(bare_home))
    shared.start(Paths.from_home(bare_home), idle_timeout_s=60)
    async with FoundryAPIClient() as client:
        models = await client.models.list()
        assert [model.id for model in models] == ["demo:2", "demo:1"]
        await client.models.unregister("demo")
        assert [model.id for model in await client.models.list()] == ["demo:2"]
        with pytest.raises(InvalidRequest):
            await client.models.unregister("demo")
        await client.models.load("demo")
        with pytest.raises(InvalidRequest):
            await client.models.unregister("demo")


async def test_a_refused_removal_names_the_reason(home: Path) -> None:
    async with FoundryAPIClient() as client:
        with pytest.raises(InvalidRequest, match="comes with this package"):
            await client.models.remove("demo")
        with pytest.raises(ModelNotFound, match="no model on this machine is named 'unheard-of'"):
            await client.models.unregister("unheard-of")


async def test_unregister_by_id_removes_one_version(home: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(tmp_path / name)
        (tmp_path / name / "notes.txt").write_text(name, encoding="utf-8")
    async with FoundryAPIClient() as client:
        await client.models.register(tmp_path / "one", "mine")
        await client.models.register(tmp_path / "two", "mine")
        await client.models.unregister("mine:2")
        assert {model.id for model in await client.models.list()} == {"demo:1", "mine:1"}
        await client.models.load("mine")
        with pytest.raises(ModelInUse) as caught:
            await client.models.unregister("mine")
        assert caught.value.hint == "Unload it first: `foundry-api models unload mine`."


def test_a_removed_demo_model_returns_when_it_is_used(bare_home: Path) -> None:
    assert "demo" not in run("models", "list", home=bare_home).stdout.split()
    shown = run("models", "show", "demo", home=bare_home)
    assert "`foundry-api models load demo` brings it back" in shown.stderr
    answered = run("chat", "-m", "demo", "hi", home=bare_home)
    assert (answered.returncode, answered.stderr) == (0, "")
    assert "demo" in run("models", "list", home=bare_home).stdout.split()
