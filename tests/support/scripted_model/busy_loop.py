"""The loop that makes the scripted model slow, and how often it runs in a millisecond."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from onnx import GraphProto

__all__ = ["HEAT_SIDE", "count_iterations", "make_busy_loop_body"]

HEAT_SIDE: Final = 256
"""Side of the square matrix that the busy loop multiplies by itself.

All its entries are 1/side, so it is exactly its own square. The sum of its entries is the side
after any number of iterations. It is the logit of the state's token; the other tokens have 0, so
they are never sampled at any temperature.
"""

# Fewer on no machine: the tests are known to pass on slow ones with it.
MIN_ITERATIONS_PER_MS = 3.0
# The fastest of many short runs is one that no other process has interrupted.
RUNS, ITERATIONS_OF_A_RUN = 40, 12


def count_iterations(milliseconds: float) -> int:
    """Return how many iterations take a time on an idle core of this machine."""
    return round(milliseconds * _measure_iterations_per_ms()) if milliseconds else 0


def make_busy_loop_body() -> GraphProto:
    """Make the body of the busy loop, which squares the matrix."""
    side = [HEAT_SIDE, HEAT_SIDE]
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_after"]),
            helper.make_node("MatMul", ["heat", "heat"], ["heat_after"]),
        ],
        "squaring",
        inputs=[
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("heat", TensorProto.FLOAT, side),
        ],
        outputs=[
            helper.make_tensor_value_info("go_on_after", TensorProto.BOOL, []),
            helper.make_tensor_value_info("heat_after", TensorProto.FLOAT, side),
        ],
    )


@cache
def _measure_iterations_per_ms() -> float:
    side = [HEAT_SIDE, HEAT_SIDE]
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "cold"], ["hot"], body=make_busy_loop_body())],
        "burning",
        inputs=[
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("cold", TensorProto.FLOAT, side),
        ],
        outputs=[helper.make_tensor_value_info("hot", TensorProto.FLOAT, side)],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = {
        "count": np.array(ITERATIONS_OF_A_RUN, np.int64),
        "cold": np.full(side, 1 / HEAT_SIDE, np.float32),
    }
    times: list[float] = []
    for _ in range(RUNS):
        started_at = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - started_at)
    return max(MIN_ITERATIONS_PER_MS, ITERATIONS_OF_A_RUN / (min(times) * 1000))
