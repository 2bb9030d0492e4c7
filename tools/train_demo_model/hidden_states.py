"""Add the output `hidden_states` to the exported model, so that it can compute embeddings.

    python tools/train_demo_model/hidden_states.py src/foundry_api/engine/demo_model

Foundry Local computes embeddings with any decoder whose graph has this output: the input of the
layer that produces the logits. Weights and answers do not change. A graph that already has the
output is left as it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

NAME = "hidden_states"


def add_output(directory: Path) -> None:
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
    add_output(Path(sys.argv[1]))
