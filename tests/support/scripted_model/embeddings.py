"""An embedding model whose every vector is known: it counts the letters of a text.

Foundry Local embeds with any decoder whose graph has an output `hidden_states`: it takes the state
at the end token, which it appends itself, and scales it to length 1 (embeddings_session.cc). This
one's state is the sum of one row a token, and the row of a byte marks its place among 32: so `a`
and `A` count alike, and two texts are near each other when they are made of the same letters.

    build_embedder(tmp_path / "embedder")
    ...                                                     # run the engine
    assert vector == pytest.approx(embedding("Hello"))
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from .directory import make_genai_config
from .graph import node, scripted_model
from .scripts import Script
from .tokenizer import BYTE_VALUES, tokenizer_json, vocabulary_size, without_template

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

DIMENSIONS = 32
"""How many numbers a vector has."""

SCRIPTS = (Script("say-nothing-at-all", ""),)
"""The engine has it choose one token beside the vector; it is thrown away."""


def build_embedder(directory: Path) -> None:
    """Write the model into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(embedding_model(), directory / "model.onnx")
    config = make_genai_config(SCRIPTS, context_length=8192)
    config["model"]["decoder"]["hidden_size"] = DIMENSIONS
    files = {
        "genai_config.json": config,
        "tokenizer.json": tokenizer_json(SCRIPTS),
        "tokenizer_config.json": without_template(),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def embedding(text: str) -> list[float]:
    """The vector of a text, as the engine sends it."""
    rows = _rows()[list(text.encode())]
    counts = rows.sum(axis=0, dtype=np.float32)
    length = np.float32(np.sqrt((counts * counts).sum(dtype=np.float32)))
    vector: list[float] = (counts / length if length else counts).tolist()
    return vector


def embedding_model() -> ModelProto:
    """The scripted model with one more output."""
    model = scripted_model(SCRIPTS)
    graph = model.graph
    graph.node.extend(
        [
            node("Gather", ["rows", "ids"], ["row_of_token"]),
            node("ReduceSum", ["row_of_token", "zero"], ["sum_of_rows"], keepdims=1),
            node("Concat", ["one", "length", "dimensions"], ["states_shape"], axis=0),
            node("Expand", ["sum_of_rows", "states_shape"], ["hidden_states"]),
        ]
    )
    graph.initializer.extend(
        [
            numpy_helper.from_array(_rows(), "rows"),
            numpy_helper.from_array(np.array([DIMENSIONS], np.int64), "dimensions"),
        ]
    )
    shape = [1, "sequence", DIMENSIONS]
    graph.output.append(helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, shape))
    checker.check_model(model, full_check=True)
    return model


def _rows() -> NDArray[np.float32]:
    """A row for every token; those of markers are empty."""
    rows = np.zeros((vocabulary_size(SCRIPTS), DIMENSIONS), np.float32)
    for byte in BYTE_VALUES:
        rows[byte, byte % DIMENSIONS] = 1
    return rows
