"""Importing models with the real engine, and a fake in place of the builder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.model_import.check import PROMPTS, count_agreeing
from foundry_api.model_import.directory import RECORD
from foundry_api.model_import.errors import (
    ModelBuilderMissing,
    ModelImportFailed,
    ModelSourceUnsupported,
)
from foundry_api.types.errors import HookFailed, InvalidRequest, ModelInUse
from service.helpers import make_model_directory, wait_until
from support.cli_program import make_command, make_environment, run
from support.fakes.fake_builder import FakeBuilder
from support.model_sources import write_directory, write_gguf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from foundry_api.model_import.types import ImportProgress

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the fake Python is a script")

ALL_STEPS = ["weights", "graph", "reference"]


@pytest.fixture
def fake(home: Path) -> FakeBuilder:
    fake = FakeBuilder(home)
    fake.install()
    return fake


@pytest.fixture
async def client(home: Path) -> AsyncIterator[FoundryAPIClient]:
    async with FoundryAPIClient(home=home, service="embedded") as client:
        yield client


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf")


def read_record(directory: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    return record


def list_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_an_imported_model_is_registered_and_answers(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, home: Path
) -> None:
    progress: list[ImportProgress] = []
    model = await client.models.import_model(source, "Mine", progress=progress.append)
    assert model.id == "Mine:1"
    output = home / "engine" / "imported" / "mine"
    assert model.path == str(output)
    assert fake.runs == ALL_STEPS
    assert [step.step for step in progress if step.percent == 0] == [*ALL_STEPS, "check"]
    assert all(step.total == 4 for step in progress)
    assert read_record(output)["agreement"] == [[1, 1]] * len(PROMPTS)
    assert read_record(output)["source"] == str(source)
    assert list_files(output.parent) == ["mine"]
    assert (await client.complete("Hello", model="mine", max_tokens=2)).content


async def test_a_directory_needs_no_step_for_the_weights(
    client: FoundryAPIClient, fake: FakeBuilder, tmp_path: Path
) -> None:
    directory = write_directory(tmp_path / "hf")
    output = tmp_path / "out" / "model"
    model = await client.models.import_model(directory, "mine", output=output, check=False)
    assert fake.runs == ["graph"]
    assert model.path == str(output)
    assert read_record(output)["agreement"] == []


async def test_importing_again_does_nothing(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path
) -> None:
    first = await client.models.import_model(source, "mine")
    assert await client.models.import_model(source, "mine") == first
    assert fake.runs == ALL_STEPS
    with pytest.raises(InvalidRequest, match=r"which has an import of .* as int4"):
        await client.models.import_model(source, "mine", precision="int8")


@pytest.mark.parametrize("behaviour", ["fail", "die"])
async def test_a_failed_step_is_done_again_and_the_others_are_not(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, home: Path, behaviour: str
) -> None:
    fake.set(graph=behaviour)
    with pytest.raises(ModelImportFailed) as failure:
        await client.models.import_model(source, "mine")
    expected = {"fail": "ValueError: the weights are strange", "die": "it was killed"}
    assert expected[behaviour] in failure.value.message
    assert failure.value.step == "graph"
    assert failure.value.log_path
    assert not (home / "engine" / "imported" / "mine").exists()
    assert [model.alias for model in await client.models.list()] == ["demo"]
    fake.set()
    await client.models.import_model(source, "mine")
    assert fake.runs == ["weights", "graph", "graph", "reference"]


async def test_a_changed_source_starts_again(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path
) -> None:
    fake.set(graph="fail")
    with pytest.raises(ModelImportFailed):
        await client.models.import_model(source, "mine")
    fake.set()
    write_gguf(source, {"llama.context_length": 256})
    await client.models.import_model(source, "mine")
    assert fake.runs == ["weights", "graph", *ALL_STEPS]


async def test_a_cancelled_import_stops_the_builder(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path
) -> None:
    fake.set(graph="hang")
    is_hanging = asyncio.Event()

    def report(progress: ImportProgress) -> None:
        if progress.step == "graph" and progress.percent == 50:
            is_hanging.set()

    task = asyncio.create_task(client.models.import_model(source, "mine", progress=report))
    await is_hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.has_ended()
    fake.set()
    await client.models.import_model(source, "mine")
    assert fake.runs == ["weights", "graph", "graph", "reference"]


async def test_a_progress_callback_that_fails_stops_the_builder(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path
) -> None:
    def report(progress: ImportProgress) -> None:
        if progress.percent == 50:
            raise ValueError("no")

    fake.set(weights="hang")
    with pytest.raises(HookFailed, match="the progress callback failed: ValueError"):
        await client.models.import_model(source, "mine", progress=report)
    assert fake.has_ended()


async def test_two_imports_to_one_directory_convert_once(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path
) -> None:
    one, other = await asyncio.gather(
        client.models.import_model(source, "mine"), client.models.import_model(source, "mine")
    )
    assert one == other
    assert fake.runs == ALL_STEPS


async def test_different_answers_are_refused(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, home: Path
) -> None:
    fake.set(text="Nobody says this.")
    with pytest.raises(ModelImportFailed, match="answers differently from its source") as failure:
        await client.models.import_model(source, "mine")
    assert "0 of 1, 0 of 1, 0 of 1, 0 of 1, 0 of 1 agree" in failure.value.message
    assert "--no-check" in failure.value.hint
    assert not (home / "engine" / "imported" / "mine").exists()
    await client.models.import_model(source, "mine", check=False)
    assert fake.runs == ALL_STEPS


async def test_a_model_that_the_engine_cannot_load_is_not_registered(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, home: Path
) -> None:
    fake.set(reference="fail")
    with pytest.raises(ModelImportFailed):
        await client.models.import_model(source, "mine")
    fake.set()
    tokenizer = home / "engine" / "imported" / ".mine.import" / "model" / "tokenizer.json"
    tokenizer.write_text('{"model": {"type": "BPE"}}', encoding="utf-8")
    with pytest.raises(ModelImportFailed, match="the engine cannot serve the model") as failure:
        await client.models.import_model(source, "mine")
    assert failure.value.step == "check"
    assert [model.alias for model in await client.models.list()] == ["demo"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"alias": "demo"}, "alias"),
        ({"alias": "a b"}, "alias"),
        ({"alias": "a" * 129}, "alias"),
        ({"alias": "x-generic-cpu"}, "alias"),
        ({"precision": "int2"}, "precision"),
        ({"precision": []}, "precision"),
        ({"output": ""}, "output"),
        ({"source": "nowhere"}, "source"),
        ({"check": "yes"}, "check"),
        ({"setup": "yes"}, "setup"),
    ],
)
async def test_invalid_arguments_are_named(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, arguments: Any, field: str
) -> None:
    with pytest.raises(InvalidRequest) as failure:
        await client.models.import_model(**{"source": source, "alias": "mine", **arguments})
    assert failure.value.field == field
    assert fake.runs == []


async def test_a_directory_of_the_user_is_not_touched(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="which has other files"):
        await client.models.import_model(source, "mine", output=output)
    assert list_files(output) == ["notes.txt"]
    workspace = tmp_path / ".empty.import"
    workspace.mkdir()
    (workspace / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidRequest, match="which has other files"):
        await client.models.import_model(source, "mine", output=tmp_path / "empty")
    assert list_files(workspace) == ["notes.txt"]
    assert fake.runs == []
    (workspace / "notes.txt").unlink()
    await client.models.import_model(source, "mine", output=tmp_path / "empty")


async def test_an_alias_of_another_directory_is_refused(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, tmp_path: Path
) -> None:
    await client.models.register(make_model_directory(tmp_path / "other"), "Mine")
    with pytest.raises(InvalidRequest, match=r"which is registered for .*other"):
        await client.models.import_model(source, "mine")
    assert fake.runs == []


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("/", "the root of a file system"),
        ("link", "a link"),
        ("dangling", "a link"),
        ("hf/out", "within the source"),
        ("linked/out", "within the source"),
        ("file", "which is a file"),
    ],
)
async def test_an_output_that_cannot_be_made_is_refused_before_the_work(
    client: FoundryAPIClient, fake: FakeBuilder, tmp_path: Path, output: str, problem: str
) -> None:
    source = write_directory(tmp_path / "hf")
    before = list_files(source)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for link, target in (("link", "empty"), ("dangling", "missing"), ("linked", "hf")):
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    with pytest.raises(InvalidRequest, match=problem) as failure:
        await client.models.import_model(source, "mine", output=tmp_path / output)
    assert failure.value.field == "output"
    assert fake.runs == []
    assert list_files(source) == before


async def test_a_source_in_the_place_of_a_stopped_import_is_not_deleted(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, tmp_path: Path
) -> None:
    fake.set(graph="fail")
    with pytest.raises(ModelImportFailed):
        await client.models.import_model(source, "mine", output=tmp_path / "out")
    kept = write_directory(tmp_path / ".out.import" / "mine")
    with pytest.raises(InvalidRequest, match="where the source is"):
        await client.models.import_model(kept, "mine", output=tmp_path / "out")
    assert (kept / "config.json").is_file()


async def test_files_with_two_aliases_are_kept_for_the_other(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, home: Path
) -> None:
    model = await client.models.import_model(source, "mine")
    await client.models.register(str(model.path), "yours")
    with pytest.raises(InvalidRequest, match="Unregister it"):
        await client.models.remove("yours")
    removed = await asyncio.to_thread(run, "models", "remove", "yours", home=home)
    assert "its files are kept" in removed.stdout
    assert (await client.complete("Hello", model="mine", max_tokens=2)).content
    await client.models.unload("mine")
    assert await client.models.remove("mine") > 2**20


async def test_without_the_packages_nothing_is_made(
    client: FoundryAPIClient, source: Path, home: Path
) -> None:
    with pytest.raises(ModelBuilderMissing, match="not installed"):
        await client.models.import_model(source, "mine")
    assert not (home / "engine" / "imported").exists()


async def test_an_unsupported_source_is_named_before_the_packages(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    directory = write_directory(tmp_path / "hf", architectures=["MambaForCausalLM"])
    with pytest.raises(ModelSourceUnsupported, match="MambaForCausalLM"):
        await client.models.import_model(directory, "mine", setup=True)


async def test_a_full_disk_is_named_before_anything_is_made(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry_api.model_import.workspace.MIN_FREE_BYTES", 2**70)
    with pytest.raises(ModelImportFailed, match="free, and the import needs about"):
        await client.models.import_model(source, "mine")
    assert fake.runs == []


async def test_removing_an_imported_model_deletes_it(
    client: FoundryAPIClient, fake: FakeBuilder, source: Path, home: Path, tmp_path: Path
) -> None:
    model = await client.models.import_model(source, "mine")
    await client.models.load("mine")
    with pytest.raises(ModelInUse):
        await client.models.remove("mine")
    await client.models.unload("mine")
    assert await client.models.remove(model.id) > 2**20
    assert list_files(home / "engine" / "imported") == []
    assert [model.alias for model in await client.models.list()] == ["demo"]
    # A directory that the user chose is the user's.
    output = tmp_path / "out"
    await client.models.import_model(source, "mine", output=output)
    with pytest.raises(InvalidRequest, match="its files are yours to delete"):
        await client.models.remove("mine")
    assert output.exists()


def test_the_command_imports_lists_and_removes(fake: FakeBuilder, source: Path, home: Path) -> None:
    done = run("models", "import", str(source), "--alias", "mine", home=home)
    assert done.returncode == 0, done.stderr
    assert "mine is imported and registered: mine:1 (int4, " in done.stdout
    assert "of the first 1 tokens of 5 answers, 1, 1, 1, 1, 1 are those" in done.stdout
    assert "1/4 reading the weights" in done.stderr
    listed = run("models", home=home).stdout
    assert "imported" in listed
    shown = run("models", "show", "mine", home=home).stdout
    assert f"imported from  {source} (int4)" in shown
    removed = run("models", "remove", "mine", home=home)
    assert "mine is deleted, which freed" in removed.stdout
    assert fake.runs == ALL_STEPS


def test_the_command_prints_json(fake: FakeBuilder, source: Path, home: Path) -> None:
    done = run("models", "import", str(source), "--alias", "mine", "--json", home=home)
    document = json.loads(done.stdout)
    assert document["model"]["id"] == "mine:1"
    assert document["import"]["precision"] == "int4"
    first = json.loads(done.stderr.splitlines()[0])
    assert first["progress"]["step"] == "weights"


def test_ctrl_c_stops_and_the_same_command_continues(
    fake: FakeBuilder, source: Path, home: Path
) -> None:
    fake.set(graph="hang")
    arguments = ("models", "import", str(source), "--alias", "mine", "--no-check")
    process = subprocess.Popen(
        make_command(*arguments), stderr=subprocess.PIPE, env=make_environment(home), text=True
    )
    wait_until(lambda: fake.runs == ["weights", "graph"])
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "was stopped at: building the model. The same command continues it." in errors
    assert fake.has_ended()
    fake.set()
    assert run(*arguments, home=home).returncode == 0
    assert fake.runs == ["weights", "graph", "graph"]


def test_a_killed_program_leaves_no_builder_behind(
    fake: FakeBuilder, source: Path, home: Path
) -> None:
    fake.set(graph="hang")
    process = subprocess.Popen(
        make_command("models", "import", str(source), "--alias", "mine"),
        stderr=subprocess.DEVNULL,
        env=make_environment(home),
    )
    wait_until(lambda: fake.runs == ["weights", "graph"])
    process.kill()
    process.wait()
    wait_until(fake.has_ended)


def test_the_command_does_not_install_without_consent(source: Path, home: Path) -> None:
    done = run("models", "import", str(source), "--alias", "mine", home=home)
    assert done.returncode == 1
    assert "the packages that convert models are not installed: up to" in done.stderr
    assert "models import --setup" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "Give the model to import, or --setup."), (("x",), "Give the model a name with --alias")],
)
def test_the_command_names_what_is_missing(arguments: Any, message: str, home: Path) -> None:
    done = run("models", "import", *arguments, home=home)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_command_lists_every_problem(tmp_path: Path, home: Path) -> None:
    directory = write_directory(
        tmp_path / "hf", {"tokenizer.json": None}, architectures=["MambaForCausalLM"]
    )
    done = run("models", "import", str(directory), "--alias", "mine", home=home)
    assert done.returncode == 1
    assert "the architecture MambaForCausalLM is not supported" in done.stderr
    assert "it has no tokenizer.json" in done.stderr


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ("The capital is", 3),
        ("  The capital of", 2),
        ("<think>The capital", 2),
        ("", 0),
        ("Paris", 0),
    ],
)
def test_counting_the_tokens_that_agree(answer: str, count: int) -> None:
    assert count_agreeing(["The", "The capital", "The capital is"], answer) == count


def test_a_character_that_is_not_complete_agrees() -> None:
    assert count_agreeing(["Caf\N{REPLACEMENT CHARACTER}", "Café"], "Café") == 2
