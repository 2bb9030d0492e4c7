"""Checks of a model directory before it is registered."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import onnx
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.engine.models.validate import find_problems, validate
from foundry_api.engine.process import get_demo_models
from foundry_api.types.errors import ModelLoadFailed, ModelRegistrationFailed
from service.helpers import make_model_directory
from support.cli_program import run
from support.scripted_model import build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_model_directory(tmp_path / "model")


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(content, encoding="utf-8")


def with_weights(length: int, actual_length: int | None) -> Callable[[Path], object]:
    """Put the weights in a file next to the graph, with this actual length."""

    def damage(path: Path) -> None:
        tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[length // 4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": "model.onnx.data", "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        graph = onnx.helper.make_graph([], "graph", [], [], initializer=[tensor])
        (path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        if actual_length is not None:
            (path / "model.onnx.data").write_bytes(bytes(actual_length))

    return damage


def pipe(name: str) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        (path / name).unlink()
        os.mkfifo(path / name)

    return damage


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shutil.rmtree, "there is no such directory"),
        (write("genai_config.json", "{"), "its genai_config.json is not JSON"),
        (write("genai_config.json", "[" * 50_000), "its genai_config.json is not JSON"),
        *(
            [(pipe("genai_config.json"), "its genai_config.json cannot be read (it is not a file)")]
            if os.name == "posix"
            else []
        ),
        (
            write("genai_config.json", '{"model": {"context_length": 0}}'),
            "its genai_config.json has no model.context_length above 0",
        ),
        (lambda path: (path / "model.onnx").unlink(), "it has no model.onnx"),
        (write("model.onnx", ""), "its model.onnx is not an ONNX graph: it has no graph"),
        (
            write("model.onnx", "version https://git-lfs.github.com/spec/v1\n"),
            "get the file itself with `git lfs pull`",
        ),
        (with_weights(800, None), "it has no model.onnx.data, where the weights of model.onnx are"),
        (with_weights(800, 799), "its model.onnx.data has 799 bytes, but model.onnx needs 800"),
        (lambda path: (path / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (write("tokenizer.json", "[]"), "its tokenizer.json is not a JSON object"),
        (write("tokenizer.json", "{}"), "its tokenizer.json has no model section"),
        (
            write("tokenizer.json", '{"model": {"type": "WordPiece"}}'),
            "its tokenizer.json is of type WordPiece; the engine reads BPE and Unigram",
        ),
        (write("tokenizer.json", "nonsense"), "its tokenizer.json is not JSON"),
        (
            lambda path: (path / "tokenizer_config.json").unlink(),
            "it has no tokenizer_config.json",
        ),
        (write("tokenizer_config.json", "{}"), "it has no chat template"),
    ],
)
def test_each_problem_is_found(
    directory: Path, damage: Callable[[Path], object], expected: str
) -> None:
    assert find_problems(directory) == ()
    damage(directory)
    [found] = find_problems(directory)
    assert expected in found


@pytest.mark.parametrize(
    "damage",
    [
        write("genai_config.json", '{"model": {}, "search": {"max_length": 512}}'),
        lambda path: [
            write("tokenizer_config.json", "{}")(path),
            write("chat_template.jinja", "x")(path),
        ],
        with_weights(800, 800),
    ],
)
def test_files_that_the_engine_accepts_are_no_problem(
    directory: Path, damage: Callable[[Path], object]
) -> None:
    damage(directory)
    assert find_problems(directory) == ()


def test_all_problems_are_reported_together(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    (directory / "model.onnx").unlink()
    with pytest.raises(ModelRegistrationFailed) as caught:
        validate(directory)
    assert "it has no model.onnx; its tokenizer.json has no model section" in str(caught.value)
    assert f"models register {directory} --check" in caught.value.hint


def test_models_that_can_be_served_have_no_problem(tmp_path: Path) -> None:
    build(tmp_path / "scripted")
    [demo] = get_demo_models()
    assert find_problems(tmp_path / "scripted") == ()
    assert find_problems(type(tmp_path)(demo.path)) == ()


def demo_copy(path: Path, *, name: str, **members: object) -> Path:
    """Copy the demo model and change members of one of its configuration files."""
    [demo] = get_demo_models()
    shutil.copytree(demo.path, path)
    file = path / name
    changed = {**json.loads(file.read_text(encoding="utf-8")), **members}
    file.write_text(json.dumps(changed), encoding="utf-8")
    return path


def test_a_check_loads_the_model_but_does_not_register_it(own_home: Path, tmp_path: Path) -> None:
    directory = demo_copy(tmp_path / "model", name="tokenizer_config.json")
    valid = run("models", "register", str(directory), "--check", home=own_home)
    assert (valid.returncode, valid.stderr) == (0, "")
    assert valid.stdout == f"{directory} can be served. Register it with --alias NAME.\n"

    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    invalid = run("models", "register", str(directory), "--check", home=own_home)
    assert invalid.returncode == 1
    assert invalid.stdout.splitlines()[1:] == ["  its tokenizer.json has no model section"]
    report = json.loads(run("models", "register", str(directory), "--check", "--json").stdout)
    assert report["findings"] == ["its tokenizer.json has no model section"]
    assert report["loaded"] is False

    without_alias = run("models", "register", str(directory), home=own_home)
    assert (without_alias.returncode, "--alias NAME" in without_alias.stderr) == (2, True)
    assert not own_home.exists()


@pytest.mark.parametrize(
    ("name", "members", "reason"),
    [
        *(
            (
                "tokenizer_config.json",
                {"tokenizer_class": tokenizer},
                f"Unsupported tokenizer class: {tokenizer}",
            )
            for tokenizer in ("BertTokenizer", "RobertaTokenizer", "NoSuchTokenizer")
        ),
        (
            "genai_config.json",
            {
                "model": {
                    "type": "bert",
                    "context_length": 64,
                    "decoder": {"filename": "model.onnx"},
                }
            },
            "Unsupported model_type in config.json: bert",
        ),
    ],
)
def test_a_check_finds_problems_that_only_the_engine_knows(
    own_home: Path, tmp_path: Path, name: str, members: dict[str, object], reason: str
) -> None:
    directory = demo_copy(tmp_path / "model", name=name, **members)
    assert find_problems(directory) == ()
    invalid = run("models", "register", str(directory), "--check", home=own_home)
    assert invalid.returncode == 1
    assert "the engine cannot serve it" in invalid.stdout
    assert reason in invalid.stdout


def test_a_check_runs_a_completion(own_home: Path, tmp_path: Path) -> None:
    """The engine loads a graph whose inputs have other names, and fails at the first call."""
    directory = demo_copy(tmp_path / "model", name="tokenizer_config.json")
    config = directory / "genai_config.json"
    text = config.read_text(encoding="utf-8").replace(
        '"input_ids": "input_ids"', '"input_ids": "x"'
    )
    config.write_text(text, encoding="utf-8")
    invalid = run("models", "register", str(directory), "--check", home=own_home)
    assert invalid.returncode == 1
    assert "Model input was not found" in invalid.stdout


async def test_a_failed_load_has_a_hint(own_home: Path, tmp_path: Path) -> None:
    directory = demo_copy(
        tmp_path / "model", name="tokenizer_config.json", tokenizer_class="BertTokenizer"
    )
    async with FoundryAPIClient(service="embedded", home=own_home) as client:
        await client.models.register(directory, "bert")
        with pytest.raises(ModelLoadFailed, match="Unsupported tokenizer class") as caught:
            await client.models.load("bert")
    assert "tokenizer_class" in caught.value.hint
    assert "memory" not in caught.value.hint
