"""The ONNX graph that recites scripts: a finite-state machine in the shape of a decoder.

Every byte of every script is a state. The state that emitted a token is written into the key cache
in place of an attention key, so each request carries its own, however many run at once. A prompt
starts the machine at the script of its last keyword; each decoding step moves it on by one. While
a prompt is read, which SDK 2.2.1 does in pieces if it is long, the script is kept instead, as a
negative number: another piece may bring a later keyword.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from .tokenizer import (
    BYTE_VALUES,
    END_OF_ANSWER,
    FRAME,
    FRAMING,
    SPELT,
    keyword_tokens,
    tokens_of,
    vocabulary_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

    from .scripts import Script

OPSET: Final = 17
IR_VERSION: Final = 8

WEIGHTS: Final = tuple(pow(0x9E3779B97F4A7C15, place, 2**44) for place in range(1, SPELT + 1))
"""What the bytes of a window are multiplied by, so that their sum tells it from all others."""

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
    """Lay out `script` from the state numbered `first`; the end token stays where it is.

    Ahead of a text stands the frame that SDK 2.2.1 asks for, behind it the way without.
    """
    spoken = tokens_of(script)
    frame = [*FRAME] if _framed(spoken) else []
    tokens = [*frame, *spoken, *([] if script.repeats else [END_OF_ANSWER])]
    last = first + len(tokens) - 1
    again = first + len(frame) if script.repeats else last
    successors = [*range(first + 1, last + 1), again]
    return [
        State(token, successor, script.prefill_cost, script.cost_per_token)
        for token, successor in zip(tokens, successors, strict=True)
    ]


def _framed(tokens: Sequence[int]) -> bool:
    """Whether an answer begins with text; one that begins with a marker has no frame."""
    return bool(tokens) and tokens[0] in BYTE_VALUES


def compile_scripts(scripts: Sequence[Script]) -> tuple[list[State], list[int]]:
    """Return all the states, and where each script starts: without its frame, and with it."""
    states: list[State] = []
    starts: list[int] = []
    for script in scripts:
        first = len(states)
        starts += [first + len(FRAME) if _framed(tokens_of(script)) else first, first]
        states += states_of(script, first)
    return states, starts


def code(window: bytes) -> int:
    """Number a window of bytes, as the graph does."""
    return sum(byte * weight for byte, weight in zip(window, WEIGHTS, strict=True))


def _code_of(keyword: str) -> int:
    """The number of a keyword that is spelt; one that is too short for a window has none."""
    spelt = keyword.encode()[:SPELT]
    return code(spelt) if len(spelt) == SPELT else -1


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
    keywords = keyword_tokens(scripts)
    integers = {
        "starts": starts,
        "keyword_tokens": list(keywords.values()),
        "keyword_codes": [_code_of(keyword) for keyword in keywords],
        "framing_code": [code(FRAMING)],
        "window": list(range(SPELT)),
        "weights": list(WEIGHTS),
        "padding": [0] * (SPELT - 1),
        "token_of_state": [state.token for state in states],
        "successor_of_state": [state.successor for state in states],
        "prefill_cost_of_state": [state.prefill_cost for state in states],
        "step_cost_of_state": [state.step_cost for state in states],
        "vocabulary": [vocabulary_size(scripts)],
        "zero": [0],
        "one": [1],
        "two": [2],
        "minus_one": [-1],
        "nothing_read": [-1],
        "last_of_axis": [np.iinfo(np.int64).max],
        "cache_axis": [2],
        "unit_axes_of_cache": [0, 1, 3],
    }
    return {
        "zeroth": np.array(0, np.int64),
        "first": np.array(1, np.int64),
        "cold": np.full((HEAT_SIDE, HEAT_SIDE), 1 / HEAT_SIDE, np.float32),
        "other_logits": np.zeros(1, np.float32),
        **{name: np.array(values, np.int64) for name, values in integers.items()},
    }


def _read_prompt() -> list[NodeProto]:
    """Find the last keyword, and whether the answer has to be framed.

    A keyword is one token, except where SDK 2.2.1 offers tools: it spells what users say in bytes
    then, so that nobody forges a marker. Among equals `ArgMax` takes the last.
    """
    return [
        node("Squeeze", ["input_ids", "zero"], ["ids"]),
        node("Shape", ["ids"], ["length"]),
        node("Squeeze", ["length", "zero"], ["end"]),
        *_number_windows(),
        node("Unsqueeze", ["codes", "one"], ["code_column"]),
        node("Equal", ["code_column", "keyword_codes"], ["is_spelt"]),
        node("Unsqueeze", ["ids", "one"], ["id_column"]),
        node("Equal", ["id_column", "keyword_tokens"], ["is_token"]),
        node("Or", ["is_spelt", "is_token"], ["is_keyword"]),
        node("Cast", ["is_keyword"], ["keyword_marks"], to=TensorProto.INT64),
        node("ReduceMax", ["keyword_marks"], ["marks"], axes=[1], keepdims=0),
        node("ArgMax", ["marks"], ["last_keyword"], axis=0, select_last_index=1),
        node("Gather", ["marks", "last_keyword"], ["mark"]),
        node("Greater", ["mark", "zero"], ["has_keyword"]),
        node("Gather", ["keyword_marks", "last_keyword"], ["deciding_marks"]),
        node("ArgMax", ["deciding_marks"], ["keyword"], axis=1, keepdims=0),
        node("Equal", ["codes", "framing_code"], ["is_framing"]),
        node("Cast", ["is_framing"], ["framing_marks"], to=TensorProto.INT64),
        node("ReduceMax", ["framing_marks"], ["framed_here"], axes=[0]),
    ]


def _number_windows() -> list[NodeProto]:
    """Number the window of tokens that begins at each."""
    return [
        node("Range", ["zeroth", "end", "first"], ["positions"]),
        node("Unsqueeze", ["positions", "one"], ["position_column"]),
        node("Add", ["position_column", "window"], ["places"]),
        node("Concat", ["ids", "padding"], ["padded_ids"], axis=0),
        node("Gather", ["padded_ids", "places"], ["windows"]),
        node("Mul", ["windows", "weights"], ["weighted"]),
        node("ReduceSum", ["weighted", "one"], ["codes"], keepdims=0),
    ]


def _find_state() -> list[NodeProto]:
    """Start afresh on a prompt, or move on from the newest entry of the cache when decoding.

    The template gives every prompt several tokens, so a single token is the model's own. Before the
    first prompt the cache is empty: hence the entry that says that nothing was read.
    """
    return [
        node("Greater", ["length", "one"], ["prefilling"]),
        node("Slice", [PAST_KEY, "minus_one", "last_of_axis", "cache_axis"], ["newest_entry"]),
        node("Squeeze", ["newest_entry", "unit_axes_of_cache"], ["newest_as_float"]),
        node("Cast", ["newest_as_float"], ["newest"], to=TensorProto.INT64),
        node("Concat", ["nothing_read", "newest"], ["entries_so_far"], axis=0),
        node("Gather", ["entries_so_far", "minus_one"], ["previous"]),
        node("Less", ["previous", "zero"], ["was_reading"]),
        node("Sub", ["minus_one", "previous"], ["previous_as_read"]),
        node("Where", ["was_reading", "previous_as_read", "zero"], ["read_so_far"]),
        *_read_on(),
        node("Gather", ["starts", "read"], ["start"]),
        node("Gather", ["starts", "read_so_far"], ["start_so_far"]),
        node("Where", ["was_reading", "start_so_far", "previous"], ["previous_state"]),
        node("Gather", ["successor_of_state", "previous_state"], ["successor"]),
        node("Where", ["prefilling", "start", "successor"], ["state"]),
    ]


def _read_on() -> list[NodeProto]:
    """Join what was read before, a script and its frame as one number, and what was read now."""
    return [
        node("Div", ["read_so_far", "two"], ["script_so_far"]),
        node("Mod", ["read_so_far", "two"], ["framed_so_far"]),
        node("Where", ["has_keyword", "keyword", "script_so_far"], ["script"]),
        node("Max", ["framed_here", "framed_so_far"], ["framed"]),
        node("Mul", ["script", "two"], ["doubled_script"]),
        node("Add", ["doubled_script", "framed"], ["read"]),
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
    """Append the state, or what was read, to the key cache, once for every token of the input."""
    return [
        node("Sub", ["minus_one", "read"], ["entry_of_reading"]),
        node("Where", ["prefilling", "entry_of_reading", "state"], ["entry"]),
        node("Cast", ["entry"], ["state_as_float"], to=TensorProto.FLOAT),
        node("Concat", ["one", "one", "length", "one"], ["entries_shape"], axis=0),
        node("Expand", ["state_as_float", "entries_shape"], ["entries"]),
        node("Concat", [PAST_KEY, "entries"], [PRESENT_KEY], axis=2),
        node("Concat", [PAST_VALUE, "entries"], [PRESENT_VALUE], axis=2),
    ]
