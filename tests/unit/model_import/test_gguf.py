"""Reading the header of a GGUF file, from good, damaged and hostile files."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_api.model_import import gguf
from foundry_api.model_import.errors import ModelSourceUnsupported
from foundry_api.model_import.gguf import InvalidGguf, read_header
from foundry_api.model_import.source import inspect_source
from support.model_sources import write_gguf

if TYPE_CHECKING:
    from pathlib import Path


def find_problem(path: Path) -> str:
    with pytest.raises(ModelSourceUnsupported) as failure:
        inspect_source(path)
    assert failure.value.problems
    assert str(path) in str(failure.value)
    return "; ".join(failure.value.problems)


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_that_can_be_imported(tmp_path: Path, version: int) -> None:
    source = inspect_source(write_gguf(tmp_path / "model.gguf", version=version))
    assert source.kind == "gguf"
    assert source.architecture == "LlamaForCausalLM"
    assert source.context_length == 512
    assert source.parameters == 8 * 4 + 8


def test_a_changed_file_has_another_digest(tmp_path: Path) -> None:
    one = inspect_source(write_gguf(tmp_path / "model.gguf"))
    other = inspect_source(write_gguf(tmp_path / "model.gguf", {"llama.context_length": 256}))
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"general.architecture": "mamba"}, "its general.architecture is mamba; supported"),
        ({"general.architecture": None}, "its general.architecture is None; supported"),
        ({"split.count": 3}, "it is one of 3 parts (split.count): join them first"),
        ({"llama.context_length": None}, "it has no llama.context_length"),
        ({"llama.expert_count": 8}, "llama.expert_count: mixtures of experts"),
        (
            {"llama.rope.scaling.type": "yarn"},
            "its positions are scaled (rope.scaling.type is yarn)",
        ),
        ({"tokenizer.ggml.model": "bert"}, "its tokenizer.ggml.model is bert"),
        ({"tokenizer.ggml.pre": "chatglm-bpe"}, "its tokenizer.ggml.pre is chatglm-bpe"),
        ({"tokenizer.ggml.pre": None}, "its tokenizer.ggml.pre is None"),
        ({"tokenizer.chat_template": None}, "it has no tokenizer.chat_template"),
        ({"tokenizer.ggml.eos_token_id": None}, "it has no tokenizer.ggml.eos_token_id"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, metadata: dict[str, Any], problem: str
) -> None:
    assert problem in find_problem(write_gguf(tmp_path / "model.gguf", metadata))


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    metadata = {"tokenizer.chat_template": None, "tokenizer.ggml.pre": "x", "split.count": 2}
    with pytest.raises(ModelSourceUnsupported) as failure:
        inspect_source(write_gguf(tmp_path / "model.gguf", metadata))
    assert len(failure.value.problems) == 3


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ((), "it has no weights"),
        ((("token_embd.weight", (256, 4), 20),), "type IQ4_NL (token_embd.weight)"),
        ((("token_embd.weight", (256, 4), 999),), "type number 999"),
    ],
)
def test_weights_that_are_not_supported(tmp_path: Path, tensors: Any, problem: str) -> None:
    assert problem in find_problem(write_gguf(tmp_path / "model.gguf", tensors=tensors))


def test_scaled_positions_are_supported_for_llama_only(tmp_path: Path) -> None:
    tensors = (("rope_freqs.weight", (8,), 0),)
    assert inspect_source(write_gguf(tmp_path / "a.gguf", tensors=tensors)).has_rope_factors
    qwen = {"general.architecture": "qwen2", "qwen2.context_length": 512}
    problem = find_problem(write_gguf(tmp_path / "b.gguf", qwen, tensors=tensors))
    assert "its positions are scaled (rope_freqs.weight is set)" in problem


def test_a_part_is_recognised_by_its_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model-00001-of-00002.gguf")
    assert "it is one of 2 parts" in find_problem(path)


def test_an_incomplete_copy_is_noticed(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", missing=1)
    size = path.stat().st_size
    expected = f"it has {size} bytes and needs {size + 1}: the copy may be incomplete"
    assert expected in find_problem(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it ends within its header"),
        (b"PK\3\4" + bytes(100), "it does not start with GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b"GGUF" + struct.pack("<I", 1), "it is version 1"),
        (b"GGUF" + struct.pack(">I", 3), "it is big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), f"its header claims {2**60} tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60), f"tensors and {2**60} values"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**62), f"a text in its header has {2**62} bytes"),
        # An array that claims more numbers, or texts, than a header may have.
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 1, 1, 1, b"a", 9, 4, 2**60),
            "its header is longer than",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 1, 1, 1, b"a", 9, 8, 2**60),
            "it ends within its header",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 1, 1, b"a", 9) + struct.pack("<IQ", 9, 1) * 9,
            "a value of the unknown type 9",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 1, 1, b"a", 77),
            "a value of the unknown type 77",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"a", 2**31),
            f"its tensor a has {2**31} dimensions",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sIQQ", 3, 1, 0, 1, b"a", 2, 2**40, 2**40),
            "its tensor a has the shape",
        ),
    ],
)
def test_damaged_and_hostile_headers(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert problem in find_problem(path)


def test_the_header_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_HEADER_BYTES", 100)
    with pytest.raises(InvalidGguf, match="longer than 100 bytes"):
        read_header(write_gguf(tmp_path / "model.gguf"))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), change=st.binary(min_size=1, max_size=8), cut=st.integers(0, 900))
def test_any_damage_is_a_named_problem_or_none(
    tmp_path: Path, place: int, change: bytes, cut: int
) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    content = bytearray(path.read_bytes())
    content[place : place + len(change)] = change
    path.write_bytes(content[: len(content) - cut])
    with contextlib.suppress(ModelSourceUnsupported):
        inspect_source(path)
