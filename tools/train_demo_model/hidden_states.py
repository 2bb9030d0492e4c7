"""Lets the exported model embed: puts out what its last layer hands to the vocabulary.

    python tools/train_demo_model/hidden_states.py src/foundry_api/engine/demo_model

Foundry Local embeds with any decoder whose graph has an output `hidden_states`. The weights stay as
they are, and so do the model's answers. Does nothing to a graph that has it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

NAME = "hidden_states"


def add(directory: Path) -> None:
    """Add the output to the model in a directory."""
    path = directory / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    if any(output.name == NAME for output in graph.output):
        return
    config = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))
    size = config["model"]["decoder"]["hidden_size"]
    (last,) = [node for node in graph.node if "logits" in node.output]
    graph.node.append(helper.make_node("Identity", [last.input[0]], [NAME]))
    shape = ["batch_size", "sequence_length", size]
    graph.output.append(helper.make_tensor_value_info(NAME, TensorProto.FLOAT, shape))
    onnx.save_model(model, path)


if __name__ == "__main__":
    add(Path(sys.argv[1]))
