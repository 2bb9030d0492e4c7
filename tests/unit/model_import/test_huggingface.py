"""Inspecting a Hugging Face directory."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.model_import.errors import ModelSourceUnsupported
from foundry_api.model_import.source import inspect_source
from foundry_api.types.errors import InvalidRequest
from support.model_sources import write_directory, write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def find_problem(directory: Path) -> str:
    with pytest.raises(ModelSourceUnsupported) as failure:
        inspect_source(directory)
    return "; ".join(failure.value.problems)


def test_a_directory_that_can_be_imported(tmp_path: Path) -> None:
    source = inspect_source(write_directory(tmp_path / "model"))
    assert source.kind == "directory"
    assert source.architecture == "LlamaForCausalLM"
    assert source.context_length == 512
    assert source.parameters == 32


def test_weights_in_several_files(tmp_path: Path) -> None:
    names = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
    index = {"model.safetensors.index.json": {"weight_map": names}, "model.safetensors": None}
    directory = write_directory(tmp_path / "model", index)
    write_safetensors(directory / "one.safetensors")
    assert find_problem(directory) == "it has no two.safetensors"
    write_safetensors(directory / "two.safetensors", "BF16")
    assert inspect_source(directory).parameters == 64


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "the architecture MambaForCausalLM is not"),
        ({"architectures": None}, "it names no architecture"),
        ({"architectures": []}, "it names no architecture"),
        ({"architectures": [["x"]]}, "the architecture ['x'] is not supported"),
        ({"vision_config": {}}, "config.json has vision_config: models that take images"),
        ({"audio_config": {}}, "config.json has audio_config: models that take sound"),
        (
            {"quantization_config": {"quant_method": "awq"}},
            "config.json has quantization_config (awq): quantised weights are not supported",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "positions scaled with rope_type yarn are not supported for LlamaForCausalLM",
        ),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}},
            "positions scaled with rope_type linear are not supported for LlamaForCausalLM",
        ),
        (
            {"rope_parameters": {"rope_type": ["x"]}},
            "positions scaled with rope_type ['x'] are not supported",
        ),
        ({"max_position_embeddings": None}, "config.json has no max_position_embeddings"),
        ({"max_position_embeddings": "512"}, "config.json has no max_position_embeddings"),
    ],
)
def test_a_configuration_that_is_not_supported(
    tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    assert problem in find_problem(write_directory(tmp_path / "model", **config))


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"config.json": None}, "it has no config.json"),
        ({"config.json": "{"}, "its config.json is not JSON"),
        ({"config.json": "[" * 50_000}, "its config.json is not JSON"),
        ({"config.json": "[]"}, "its config.json is not a JSON object"),
        ({"config.json": " " * 2**21}, "its config.json is larger than"),
        ({"tokenizer.json": None}, "it has no tokenizer.json"),
        ({"tokenizer.json": {"model": {"type": "WordPiece"}}}, "a tokenizer of type WordPiece"),
        ({"tokenizer.json": {"model": 5}}, "a tokenizer of type None"),
        ({"tokenizer_config.json": None}, "it has no tokenizer_config.json"),
        ({"tokenizer_config.json": {}}, "it has no chat template, neither in"),
        ({"model.safetensors": None}, "it has no model.safetensors and no"),
        ({"model.safetensors": None, "pytorch_model.bin": ""}, "weights in .bin files are Python"),
        ({"model.safetensors": None, "model.gguf": ""}, "to import a GGUF file, give the file"),
        ({"model.safetensors": LFS_POINTER}, "model.safetensors cannot be used: it is a pointer"),
        ({"model.safetensors": "x"}, "it is not a safetensors file, or it ends too early"),
        (
            {"model.safetensors": None, "model.safetensors.index.json": {"weight_map": {}}},
            "its model.safetensors.index.json has no weight_map",
        ),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": {"weight_map": {"a": "../x.safetensors"}},
            },
            "it has no ../x.safetensors",
        ),
        ({"generation_config.json": "{"}, "its generation_config.json is not JSON"),
        ({"genai_config.json": {}}, "so it is a model for the engine already"),
    ],
)
def test_files_that_are_missing_or_damaged(
    tmp_path: Path, files: dict[str, Any], problem: str
) -> None:
    assert problem in find_problem(write_directory(tmp_path / "model", files))


@pytest.mark.parametrize("generation", [{}, {"generation_config.json": {"eos_token_id": None}}])
def test_a_model_needs_a_token_that_ends_an_answer(
    tmp_path: Path, generation: dict[str, Any]
) -> None:
    files = {"tokenizer_config.json": {"chat_template": "x"}, **generation}
    assert "no file names the token that ends an answer" in find_problem(
        write_directory(tmp_path / "model", files, eos_token_id=None)
    )


def test_the_chat_template_may_be_a_file(tmp_path: Path) -> None:
    files = {"tokenizer_config.json": {}, "chat_template.jinja": "x"}
    assert inspect_source(write_directory(tmp_path / "model", files))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (struct.pack("<Q", 2**60), "it is not a safetensors file, or it ends too early"),
        (struct.pack("<Q", 4) + b"nope", "its header is damaged"),
        (struct.pack("<Q", 50_000) + b"[" * 50_000, "its header is damaged"),
        (struct.pack("<Q", 9) + b'{"a": 55}', "its header is damaged"),
    ],
)
def test_damaged_weights(tmp_path: Path, content: bytes, problem: str) -> None:
    directory = write_directory(tmp_path / "model")
    (directory / "model.safetensors").write_bytes(content)
    assert problem in find_problem(directory)


def test_an_incomplete_copy_and_quantised_weights_are_noticed(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "model")
    write_safetensors(directory / "model.safetensors", missing=1)
    assert "the copy may be incomplete" in find_problem(directory)
    write_safetensors(directory / "model.safetensors", "I8")
    assert "weights of type I8, such as model.weight" in find_problem(directory)


def test_changed_files_have_another_digest(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "model")
    before = inspect_source(directory).digest
    assert inspect_source(directory).digest == before
    content = json.dumps({"chat_template": "other", "eos_token": "x"})
    (directory / "tokenizer_config.json").write_text(content, encoding="utf-8")
    assert inspect_source(directory).digest != before


@pytest.mark.parametrize("source", ["", "nowhere", "a\0b", 5])
def test_a_source_must_exist(source: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="source is"):
        inspect_source(str(tmp_path / source) if source == "nowhere" else source)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 128}, 128),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, 512),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, 512),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 128}, 512),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 128,
                "use_sliding_window": True,
            },
            128,
        ),
        ({"architectures": ["Gemma2ForCausalLM"], "sliding_window": 128}, 512),
    ],
)
def test_a_forgotten_window_limits_the_context(
    tmp_path: Path, config: dict[str, Any], length: int
) -> None:
    assert inspect_source(write_directory(tmp_path / "model", **config)).context_length == length
