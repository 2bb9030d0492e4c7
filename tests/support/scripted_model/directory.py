"""The files of the model directory besides the graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx

from .graph import PAST_KEY, PAST_VALUE, PRESENT_KEY, PRESENT_VALUE, make_scripted_model
from .scripts import ALL_SCRIPTS, Script
from .tokenizer import (
    BEGIN_CALL,
    BEGIN_REASONING,
    END_CALL,
    END_OF_ANSWER,
    END_REASONING,
    make_tokenizer_config,
    make_tokenizer_json,
    vocabulary_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


MARKER_IDS = {
    "bot_token_id": BEGIN_CALL,
    "eot_token_id": END_CALL,
    "bor_token_id": BEGIN_REASONING,
    "eor_token_id": END_REASONING,
}


def build(
    directory: Path,
    scripts: Sequence[Script] = ALL_SCRIPTS,
    *,
    context_length: int = 8192,
    markers: bool = True,
) -> None:
    """Write a model that recites `scripts` into `directory`, which is created if it is missing.

    Args:
        directory: The directory of the model.
        scripts: The answers; the first one answers a prompt without a keyword.
        context_length: The maximum number of tokens of a prompt and its answer.
        markers: Whether the configuration has the markers of calls and reasoning. SDK 2.2.1 needs
            them for tools; ONNX Runtime GenAI before 0.16 does not load a model with them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(make_scripted_model(scripts), directory / "model.onnx")
    files = {
        "genai_config.json": make_genai_config(scripts, context_length, markers=markers),
        "tokenizer.json": make_tokenizer_json(scripts),
        "tokenizer_config.json": make_tokenizer_config(),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def make_genai_config(
    scripts: Sequence[Script], context_length: int, *, markers: bool = False
) -> dict[str, Any]:
    """Make the configuration of ONNX Runtime GenAI, with only the fields that all versions accept.

    It runs on one thread, so that the delays of the scripts do not depend on the number of cores.
    """
    return {
        "model": {
            "type": "llama",
            "bos_token_id": END_OF_ANSWER,
            "eos_token_id": END_OF_ANSWER,
            "pad_token_id": END_OF_ANSWER,
            **(MARKER_IDS if markers else {}),
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
