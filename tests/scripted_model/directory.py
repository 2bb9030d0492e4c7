"""The model directory: what Foundry Local needs to find beside the graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx

from .graph import PAST_KEY, PAST_VALUE, PRESENT_KEY, PRESENT_VALUE, scripted_model
from .scripts import SCRIPTS, Script
from .tokenizer import (
    END_OF_ANSWER,
    tokenizer_config_json,
    tokenizer_json,
    vocabulary_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def build(
    directory: Path, scripts: Sequence[Script] = SCRIPTS, *, context_length: int = 8192
) -> None:
    """Write the model that recites `scripts` into `directory`, which is made if need be.

    Args:
        directory: Where the files go.
        scripts: What the model can say; the first one answers a prompt without keyword.
        context_length: How many tokens a prompt and its answer may have together.
    """
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(scripted_model(scripts), directory / "model.onnx")
    files = {
        "genai_config.json": genai_config(scripts, context_length),
        "tokenizer.json": tokenizer_json(scripts),
        "tokenizer_config.json": tokenizer_config_json(),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def genai_config(scripts: Sequence[Script], context_length: int) -> dict[str, Any]:
    """Describe the graph to ONNX Runtime GenAI, with no field that an old version would refuse.

    One thread, so that the costs of the scripts do not depend on the number of cores.
    """
    return {
        "model": {
            "type": "llama",
            "bos_token_id": END_OF_ANSWER,
            "eos_token_id": END_OF_ANSWER,
            "pad_token_id": END_OF_ANSWER,
            "vocab_size": vocabulary_size(scripts),
            "context_length": context_length,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"intra_op_num_threads": 1, "provider_options": []},
                "head_size": 1,
                "hidden_size": 1,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "num_hidden_layers": 1,
                "inputs": {
                    "input_ids": "input_ids",
                    "past_key_names": PAST_KEY.replace(".0.", ".%d."),
                    "past_value_names": PAST_VALUE.replace(".0.", ".%d."),
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": PRESENT_KEY.replace(".0.", ".%d."),
                    "present_value_names": PRESENT_VALUE.replace(".0.", ".%d."),
                },
            },
        },
        "search": {
            "do_sample": False,
            "max_length": context_length,
            "past_present_share_buffer": False,
        },
    }
