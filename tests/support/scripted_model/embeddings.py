"""An embedding model with known vectors, which counts the letters of a text.

Foundry Local embeds with any decoder whose graph has an output `hidden_states`: it takes the state
of the end token, which it appends, and scales it to length 1 (embeddings_session.cc). The state of
this model is the sum of a row per token, and the row of a byte is a unit vector of 32 dimensions.
`a` and `A` have the same row, and texts of the same letters have similar vectors.

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
from .graph import make_scripted_model, node
from .scripts import Script
from .tokenizer import (
    BYTE_VALUES,
    make_tokenizer_config_without_template,
    make_tokenizer_json,
    vocabulary_size,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

DIMENSIONS = 32
"""Length of the vectors."""

SCRIPTS = (Script("say-nothing-at-all", ""),)
"""The engine also generates one token and discards it."""


def build_embedder(directory: Path) -> None:
    """Write the model into `directory`, which is created if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save_model(make_embedding_model(), directory / "model.onnx")
    config = make_genai_config(SCRIPTS, context_length=8192)
    config["model"]["decoder"]["hidden_size"] = DIMENSIONS
    files = {
        "genai_config.json": config,
        "tokenizer.json": make_tokenizer_json(SCRIPTS),
        "tokenizer_config.json": make_tokenizer_config_without_template(),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def embedding(text: str) -> list[float]:
    """Return the vector of a text as the engine sends it."""
    rows = _make_rows()[list(text.encode())]
    counts = rows.sum(axis=0, dtype=np.float32)
    length = np.float32(np.sqrt((counts * counts).sum(dtype=np.float32)))
    vector: list[float] = (counts / length if length else counts).tolist()
    return vector


def make_embedding_model() -> ModelProto:
    """Make a scripted model with the additional output `hidden_states`."""
    model = make_scripted_model(SCRIPTS)
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
            numpy_helper.from_array(_make_rows(), "rows"),
            numpy_helper.from_array(np.array([DIMENSIONS], np.int64), "dimensions"),
        ]
    )
    shape = [1, "sequence", DIMENSIONS]
    graph.output.append(helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, shape))
    checker.check_model(model, full_check=True)
    return model


def _make_rows() -> NDArray[np.float32]:
    """Make the rows of all tokens; those of markers are zero."""
    rows = np.zeros((vocabulary_size(SCRIPTS), DIMENSIONS), np.float32)
    for byte in BYTE_VALUES:
        rows[byte, byte % DIMENSIONS] = 1
    return rows
