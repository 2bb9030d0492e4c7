"""The ONNX graph that recites scripts: a finite-state machine in the shape of a decoder.

Every byte of every script is a state. The state that emitted a token is written into the key cache
in place of an attention key, so each request carries its own, however many run at once. A prompt
starts the machine at the script of its last keyword; each decoding step moves it on by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from .tokenizer import END_OF_ANSWER, FIRST_KEYWORD, vocabulary_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

    from .scripts import Script

OPSET: Final = 17
IR_VERSION: Final = 8

HEAT_SIDE: Final = 256
"""Side of the square matrix that the busy loop multiplies by itself.

Its entries are all 1/side, which makes it its own square exactly. The sum of its entries is
therefore the side, however long the loop ran; as the logit of the chosen token it leaves the
others, which have 0, no chance at any temperature.
"""

PAST_KEY: Final = "past_key_values.0.key"
PAST_VALUE: Final = "past_key_values.0.value"
PRESENT_KEY: Final = "present.0.key"
PRESENT_VALUE: Final = "present.0.value"

node = helper.make_node


class State(NamedTuple):
    """One step of a script: what it emits, what follows it, and what each kind of pass costs."""

    token: int
    successor: int
    prefill_cost: int
    step_cost: int


def states_of(script: Script, first: int) -> list[State]:
    """Lay out `script` from the state numbered `first`; the end token stays where it is."""
    tokens = [*script.text.encode(), *([] if script.repeats else [END_OF_ANSWER])]
    last = first + len(tokens) - 1
    successors = [*range(first + 1, last + 1), first if script.repeats else last]
    return [
        State(token, successor, script.prefill_cost, script.cost_per_token)
        for token, successor in zip(tokens, successors, strict=True)
    ]


def compile_scripts(scripts: Sequence[Script]) -> tuple[list[State], list[int]]:
    """Return all the states, and where each script starts among them."""
    states: list[State] = []
    starts: list[int] = []
    for script in scripts:
        starts.append(len(states))
        states += states_of(script, first=starts[-1])
    return states, starts


def scripted_model(scripts: Sequence[Script]) -> ModelProto:
    """Build the graph that recites `scripts`; it takes one sequence at a time."""
    vocabulary = vocabulary_size(scripts)
    graph = helper.make_graph(
        [*_read_prompt(), *_find_state(), *_burn_time(), *_emit_token(), *_remember_state()],
        "scripted_model",
        inputs=[
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"]),
            _cache_info(PAST_KEY, "past"),
            _cache_info(PAST_VALUE, "past"),
        ],
        outputs=[
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "sequence", vocabulary]),
            _cache_info(PRESENT_KEY, "total"),
            _cache_info(PRESENT_VALUE, "total"),
        ],
        initializer=[
            numpy_helper.from_array(values, name) for name, values in _constants(scripts).items()
        ],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _cache_info(name: str, length: str) -> ValueInfoProto:
    """Describe a key or value cache of one head that is one number wide."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, length, 1])


def _constants(scripts: Sequence[Script]) -> dict[str, NDArray[Any]]:
    """Collect the tables and the small constants that the nodes name."""
    states, starts = compile_scripts(scripts)
    integers = {
        "start_of_token": [starts[0]] * FIRST_KEYWORD + starts,
        "token_of_state": [state.token for state in states],
        "successor_of_state": [state.successor for state in states],
        "prefill_cost_of_state": [state.prefill_cost for state in states],
        "step_cost_of_state": [state.step_cost for state in states],
        "first_keyword": [FIRST_KEYWORD],
        "vocabulary": [vocabulary_size(scripts)],
        "zero": [0],
        "one": [1],
        "minus_one": [-1],
        "last_of_axis": [np.iinfo(np.int64).max],
        "cache_axis": [2],
        "unit_axes_of_cache": [0, 1, 3],
    }
    return {
        "cold": np.full((HEAT_SIDE, HEAT_SIDE), 1 / HEAT_SIDE, np.float32),
        "other_logits": np.zeros(1, np.float32),
        **{name: np.array(values, np.int64) for name, values in integers.items()},
    }


def _read_prompt() -> list[NodeProto]:
    """Find the state at which the last keyword starts.

    Among equals `ArgMax` takes the last, so without any keyword it takes an ordinary token, and
    those start the first script.
    """
    return [
        node("Squeeze", ["input_ids", "zero"], ["ids"]),
        node("Shape", ["ids"], ["length"]),
        node("GreaterOrEqual", ["ids", "first_keyword"], ["is_keyword"]),
        node("Cast", ["is_keyword"], ["keyword_marks"], to=TensorProto.INT64),
        node("ArgMax", ["keyword_marks"], ["last_keyword"], axis=0, select_last_index=1),
        node("Gather", ["ids", "last_keyword"], ["deciding_token"]),
        node("Gather", ["start_of_token", "deciding_token"], ["start"]),
    ]


def _find_state() -> list[NodeProto]:
    """Start afresh on a prompt, or move on from the newest entry of the cache when decoding.

    The template gives every prompt several tokens, so a single token is the model's own. Before the
    first prompt the cache is empty: hence the list of candidates, which then holds only the start.
    """
    return [
        node("Greater", ["length", "one"], ["prefilling"]),
        node("Slice", [PAST_KEY, "minus_one", "last_of_axis", "cache_axis"], ["newest_entry"]),
        node("Squeeze", ["newest_entry", "unit_axes_of_cache"], ["previous_as_float"]),
        node("Cast", ["previous_as_float"], ["previous"], to=TensorProto.INT64),
        node("Gather", ["successor_of_state", "previous"], ["successor"]),
        node("Concat", ["start", "successor"], ["candidates"], axis=0),
        node("Where", ["prefilling", "zero", "minus_one"], ["choice"]),
        node("Gather", ["candidates", "choice"], ["state"]),
    ]


def _burn_time() -> list[NodeProto]:
    """Keep the processor busy for as long as the state costs."""
    return [
        node("Gather", ["prefill_cost_of_state", "state"], ["prefill_cost"]),
        node("Gather", ["step_cost_of_state", "state"], ["step_cost"]),
        node("Where", ["prefilling", "prefill_cost", "step_cost"], ["cost"]),
        node("Loop", ["cost", "", "cold"], ["hot"], body=_squaring()),
    ]


def _squaring() -> GraphProto:
    """Return the body of the busy loop."""
    side = [HEAT_SIDE, HEAT_SIDE]
    return helper.make_graph(
        [
            node("Identity", ["go_on"], ["go_on_after"]),
            node("MatMul", ["heat", "heat"], ["heat_after"]),
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


def _emit_token() -> list[NodeProto]:
    """Give the state's token the only logit above zero, at every position of the input."""
    return [
        node("Gather", ["token_of_state", "state"], ["token"]),
        node("ReduceSum", ["hot"], ["sum_of_heat"]),
        node("Squeeze", ["sum_of_heat", "zero"], ["token_logit"]),
        node("Concat", ["other_logits", "token_logit"], ["logit_values"], axis=0),
        node("OneHot", ["token", "vocabulary", "logit_values"], ["token_logits"]),
        node("Concat", ["one", "length", "vocabulary"], ["logits_shape"], axis=0),
        node("Expand", ["token_logits", "logits_shape"], ["logits"]),
    ]


def _remember_state() -> list[NodeProto]:
    """Append the state to the key cache, once for every token of the input."""
    return [
        node("Cast", ["state"], ["state_as_float"], to=TensorProto.FLOAT),
        node("Concat", ["one", "one", "length", "one"], ["entries_shape"], axis=0),
        node("Expand", ["state_as_float", "entries_shape"], ["entries"]),
        node("Concat", [PAST_KEY, "entries"], [PRESENT_KEY], axis=2),
        node("Concat", [PAST_VALUE, "entries"], [PRESENT_VALUE], axis=2),
    ]
