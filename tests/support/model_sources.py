"""Writes small models of other programs: Hugging Face directories and GGUF files."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["CONFIG", "METADATA", "write_directory", "write_gguf", "write_safetensors"]

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "eos_token_id": 2,
    "max_position_embeddings": 512,
    "model_type": "llama",
    "num_hidden_layers": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
TOKENIZER = {"model": {"type": "BPE", "vocab": {}, "merges": []}}
TOKENIZER_CONFIG = {"chat_template": "{{ messages[0].content }}", "eos_token": "</s>"}

METADATA = {
    "general.architecture": "llama",
    "llama.context_length": 512,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["a", "b", "</s>"],
    "tokenizer.ggml.scores": [0.5, 0.5, 0.5],
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{{ messages[0].content }}",
}
# Name, shape, type (0 is F32, with 4 bytes an element).
TENSORS = (("token_embd.weight", (8, 4), 0), ("output_norm.weight", (8,), 0))


def write_directory(directory: Path, files: Mapping[str, Any] = {}, **config: Any) -> Path:
    """Write a directory that can be imported.

    `files` replaces files; None leaves one out. `config` replaces members of config.json.
    """
    directory.mkdir(parents=True, exist_ok=True)
    contents: dict[str, Any] = {
        "config.json": {**CONFIG, **config},
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": TOKENIZER_CONFIG,
        **files,
    }
    for name, content in contents.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (directory / name).write_text(text, encoding="utf-8")
    if "model.safetensors" not in files:
        write_safetensors(directory / "model.safetensors")
    return directory


def write_safetensors(path: Path, dtype: str = "F32", elements: int = 32, missing: int = 0) -> None:
    size = {"F32": 4, "BF16": 2, "I8": 1}[dtype] * elements
    tensor = {"dtype": dtype, "shape": [elements], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "model.weight": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size - missing))


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any] = {},
    *,
    tensors: tuple[tuple[str, tuple[int, ...], int], ...] = TENSORS,
    version: int = 3,
    missing: int = 0,
) -> Path:
    """Write a file that can be imported. `metadata` replaces entries; None leaves one out."""
    entries = {name: v for name, v in {**METADATA, **metadata}.items() if v is not None}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    for name, value in entries.items():
        head += _text(name) + _value(value)
    offset = 0
    for name, shape, kind in tensors:
        sizes = b"".join(struct.pack("<Q", size) for size in shape)
        head += _text(name) + struct.pack("<I", len(shape)) + sizes
        head += struct.pack("<IQ", kind, offset)
        offset += 4 * _product(shape)
    head += bytes(-len(head) % 32)
    path.write_bytes(head + bytes(offset - missing))
    return path


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = 8 if isinstance(value[0], str) else 6
        elements = [_text(v) if kind == 8 else struct.pack("<f", v) for v in value]
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(elements)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<II", 4, value)
