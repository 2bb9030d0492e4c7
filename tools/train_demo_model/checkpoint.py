"""Turn the shipped model back into a checkpoint that train.py can continue from.

The int4 weights are dequantized, so only the loss of quantization remains. A tokenizer from before
tools gets the tokens for them; the embedding of a new token starts as the mean of the embeddings of
the tokens that it replaces.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from corpus import load_corpus
from onnx import numpy_helper
from tokenizers import Tokenizer
from train import SEED, make_model
from vocabulary import add_tools

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SHIPPED_MODEL = Path(__file__).parents[2] / "src/foundry_api/engine/demo_model"
PARTS = {
    "attn.o_proj": "self_attn.o_proj",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
ZERO_POINT = 8
FULL_PRECISION = ("model.embed_tokens.weight", "lm_head.weight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the checkpoint")
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED_MODEL)
    arguments = parser.parse_args()
    old = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    tokenizer = add_tools(
        Tokenizer.from_file(str(arguments.model / "tokenizer.json")), load_corpus(), SEED
    )
    model = restore_model(arguments.model, tokenizer, old)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")


def restore_model(
    directory: Path, tokenizer: PreTrainedTokenizerFast, old: Tokenizer
) -> LlamaForCausalLM:
    """Load the model of a directory, with an embedding row for every token."""
    weights = read_weights(directory / "model.onnx")
    for name in FULL_PRECISION:
        weights[name] = add_rows(weights[name], tokenizer, old)
    model = make_model(tokenizer)
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    return model


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read the weights of the builder's graph under their transformers names."""
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers = sum(name.endswith("qkv_proj.MatMul.weight_Q4") for name in stored)
    weights = {
        "model.embed_tokens.weight": stored["model.embed_tokens.weight"],
        "model.norm.weight": stored[f"model.layers.{layers}.final_norm_layernorm.weight"],
        "lm_head.weight": unpack_matrix(stored, "lm_head"),
    }
    for number in range(layers):
        layer = f"model.layers.{number}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}.{norm}.weight"] = stored[f"{layer}.{norm}.weight"]
        for part, name in PARTS.items():
            weights[f"{layer}.{name}.weight"] = unpack_matrix(stored, f"{layer}.{part}")
        weights |= split_attention(layer, unpack_matrix(stored, f"{layer}.attn.qkv_proj"))
    return {name: np.array(weight, np.float32) for name, weight in weights.items()}


def unpack_matrix(stored: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Dequantize a MatMulNBits weight, whose low nibbles come first."""
    packed = stored[f"{name}.MatMul.weight_Q4"]
    nibbles = np.stack((packed & 15, packed >> 4), axis=-1).astype(np.float32)
    blocks = nibbles.reshape(*packed.shape[:2], -1) - ZERO_POINT
    scales = stored[f"{name}.MatMul.weight_scales"].reshape(*packed.shape[:2], 1)
    return (blocks * scales).reshape(packed.shape[0], -1)


def split_attention(layer: str, packed: np.ndarray) -> dict[str, np.ndarray]:
    """Split the matrix into which the builder packs queries, keys and values, in this order."""
    queries = packed.shape[1]
    keys = (packed.shape[0] - queries) // 2
    parts = np.split(packed, [queries, queries + keys])
    return {
        f"{layer}.self_attn.{name}_proj.weight": part
        for name, part in zip("qkv", parts, strict=True)
    }


def add_rows(weight: np.ndarray, tokenizer: PreTrainedTokenizerFast, old: Tokenizer) -> np.ndarray:
    """Append a row for each new token: the mean of the rows of the tokens that it replaces."""
    known = old.get_vocab_size()
    rows = [
        weight[old.encode(tokenizer.decode([token]), add_special_tokens=False).ids].mean(axis=0)
        for token in range(known, len(tokenizer))
    ]
    return np.concatenate((weight[:known], np.array(rows))) if rows else weight


if __name__ == "__main__":
    main()
