"""The ONNX graph of the scripted model: a finite-state machine with the interface of a decoder.

Every byte of every script is a state. The state is stored in the key cache in place of an attention
key, so concurrent requests have their own states. A prompt selects the first state by its last
keyword, and each decoding step advances by one state. SDK 2.2.1 passes long prompts in several
parts. Until the last part, the cache has the script as a negative number instead of a state, as a
later part may have another keyword. The value cache has the tokens themselves, so that a keyword
is found that begins in one part and ends in the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

from .busy_loop import HEAT_SIDE, count_iterations, make_busy_loop_body
from .tokenizer import (
    BYTE_VALUES,
    END_OF_ANSWER,
    FRAME,
    FRAMING,
    KEYWORD_BYTES,
    encode_script,
    keyword_tokens,
    vocabulary_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from .scripts import Script

OPSET: Final = 17
IR_VERSION: Final = 8

WEIGHTS: Final = tuple(
    pow(0x9E3779B97F4A7C15, place, 2**44) for place in range(1, KEYWORD_BYTES + 1)
)
"""Factors of the bytes of a window, whose sum then identifies the window."""

PAST_KEY: Final = "past_key_values.0.key"
PAST_VALUE: Final = "past_key_values.0.value"
PRESENT_KEY: Final = "present.0.key"
PRESENT_VALUE: Final = "present.0.value"

node = helper.make_node


class State(NamedTuple):
    """One step of a script: its token, the next state, and the delays of prefill and decoding."""

    token: int
    successor: int
    prefill_cost: int
    step_cost: int


def compile_script(script: Script, first: int) -> list[State]:
    """Return the states of `script`, numbered from `first`; the end token is its own successor.

    A text is preceded by the frame that SDK 2.2.1 requires with tools; without tools, it starts
    after the frame.
    """
    text_tokens = encode_script(script)
    frame = [*FRAME] if _has_frame(text_tokens) else []
    tokens = [*frame, *text_tokens, *([] if script.repeats else [END_OF_ANSWER])]
    last = first + len(tokens) - 1
    successor_of_last = first + len(frame) if script.repeats else last
    successors = [*range(first + 1, last + 1), successor_of_last]
    prefill_cost, step_cost = map(count_iterations, (script.prefill_ms, script.ms_per_token))
    return [
        State(token, successor, prefill_cost, step_cost)
        for token, successor in zip(tokens, successors, strict=True)
    ]


def _has_frame(tokens: Sequence[int]) -> bool:
    """Return whether an answer begins with text; one that begins with a marker has no frame."""
    return bool(tokens) and tokens[0] in BYTE_VALUES


def compile_scripts(scripts: Sequence[Script]) -> tuple[list[State], list[int]]:
    """Return all states, and the first states of each script without and with its frame."""
    states: list[State] = []
    starts: list[int] = []
    for script in scripts:
        first = len(states)
        starts += [first + len(FRAME) if _has_frame(encode_script(script)) else first, first]
        states += compile_script(script, first)
    return states, starts


def hash_window(window: bytes) -> int:
    """Compute the number of a window of bytes, as the graph does."""
    return sum(byte * weight for byte, weight in zip(window, WEIGHTS, strict=True))


def _hash_keyword(keyword: str) -> int:
    """Return the number of a keyword in bytes, or -1 if it is shorter than a window."""
    prefix = keyword.encode()[:KEYWORD_BYTES]
    return hash_window(prefix) if len(prefix) == KEYWORD_BYTES else -1


def make_scripted_model(scripts: Sequence[Script]) -> ModelProto:
    """Make the graph that recites `scripts`, for one sequence at a time."""
    vocabulary = vocabulary_size(scripts)
    graph = helper.make_graph(
        [*_read_prompt(), *_find_state(), *_burn_time(), *_emit_token(), *_store_state()],
        "scripted_model",
        inputs=[
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "sequence"]),
            _describe_cache(PAST_KEY, "past"),
            _describe_cache(PAST_VALUE, "past"),
        ],
        outputs=[
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "sequence", vocabulary]),
            _describe_cache(PRESENT_KEY, "total"),
            _describe_cache(PRESENT_VALUE, "total"),
        ],
        initializer=[
            numpy_helper.from_array(values, name)
            for name, values in _make_constants(scripts).items()
        ],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _describe_cache(name: str, length: str) -> ValueInfoProto:
    """Describe a key or value cache of one head with one number per token."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, length, 1])


def _make_constants(scripts: Sequence[Script]) -> dict[str, NDArray[Any]]:
    """Make the tables and constants of the graph, by name."""
    states, starts = compile_scripts(scripts)
    keywords = keyword_tokens(scripts)
    integers = {
        "starts": starts,
        "keyword_tokens": list(keywords.values()),
        "keyword_codes": [_hash_keyword(keyword) for keyword in keywords],
        "framing_code": [hash_window(FRAMING)],
        "window": list(range(KEYWORD_BYTES)),
        "weights": list(WEIGHTS),
        "padding": [0] * (KEYWORD_BYTES - 1),
        "token_of_state": [state.token for state in states],
        "successor_of_state": [state.successor for state in states],
        "prefill_cost_of_state": [state.prefill_cost for state in states],
        "step_cost_of_state": [state.step_cost for state in states],
        "vocabulary": [vocabulary_size(scripts)],
        "zero": [0],
        "one": [1],
        "two": [2],
        "minus_one": [-1],
        "tail_start": [1 - KEYWORD_BYTES],
        "nothing_read": [-1],
        "line_feed": [ord("\n")],
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
    """Find the last keyword, and whether the answer needs a frame.

    A keyword is one token, except with tools: there, SDK 2.2.1 encodes user messages in bytes, so
    that they cannot contain special tokens. Of equal values, `ArgMax` takes the last.
    """
    return [
        node("Squeeze", ["input_ids", "zero"], ["ids"]),
        node("Shape", ["ids"], ["length"]),
        *_number_windows(),
        node("Unsqueeze", ["codes", "one"], ["code_column"]),
        node("Equal", ["code_column", "keyword_codes"], ["is_spelt"]),
        node("Unsqueeze", ["recent_ids", "one"], ["id_column"]),
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
    """Compute the number of the window that starts at each token, also near a part's end."""
    return [
        node("Slice", [PAST_VALUE, "tail_start", "last_of_axis", "cache_axis"], ["tail"]),
        node("Squeeze", ["tail", "unit_axes_of_cache"], ["tail_as_float"]),
        node("Cast", ["tail_as_float"], ["tail_ids"], to=TensorProto.INT64),
        node("Concat", ["tail_ids", "ids"], ["recent_ids"], axis=0),
        node("Shape", ["recent_ids"], ["recent_length"]),
        node("Squeeze", ["recent_length", "zero"], ["end"]),
        node("Range", ["zeroth", "end", "first"], ["positions"]),
        node("Unsqueeze", ["positions", "one"], ["position_column"]),
        node("Add", ["position_column", "window"], ["places"]),
        node("Concat", ["recent_ids", "padding"], ["padded_ids"], axis=0),
        node("Gather", ["padded_ids", "places"], ["windows"]),
        node("Mul", ["windows", "weights"], ["weighted"]),
        node("ReduceSum", ["weighted", "one"], ["codes"], keepdims=0),
    ]


def _find_state() -> list[NodeProto]:
    """Select the first state of a prompt, or the successor of the newest state in the cache.

    A prompt has several tokens due to the chat template, so a single token is a decoding step,
    except a line feed while a prompt is read: it ends the chat template, and no script begins with
    it. The entry `nothing_read` stands for the empty cache before the first prompt.
    """
    return [
        node("Slice", [PAST_KEY, "minus_one", "last_of_axis", "cache_axis"], ["newest_entry"]),
        node("Squeeze", ["newest_entry", "unit_axes_of_cache"], ["newest_as_float"]),
        node("Cast", ["newest_as_float"], ["newest"], to=TensorProto.INT64),
        node("Concat", ["nothing_read", "newest"], ["entries_so_far"], axis=0),
        node("Gather", ["entries_so_far", "minus_one"], ["previous"]),
        node("Less", ["previous", "zero"], ["was_reading"]),
        node("Greater", ["length", "one"], ["has_several_tokens"]),
        node("Gather", ["ids", "minus_one"], ["last_id"]),
        node("Equal", ["last_id", "line_feed"], ["ends_line"]),
        node("And", ["was_reading", "ends_line"], ["ends_template"]),
        node("Or", ["has_several_tokens", "ends_template"], ["prefilling"]),
        node("Sub", ["minus_one", "previous"], ["previous_as_read"]),
        node("Where", ["was_reading", "previous_as_read", "zero"], ["read_so_far"]),
        *_merge_prompt_parts(),
        node("Gather", ["starts", "read"], ["start"]),
        node("Gather", ["starts", "read_so_far"], ["start_so_far"]),
        node("Where", ["was_reading", "start_so_far", "previous"], ["previous_state"]),
        node("Gather", ["successor_of_state", "previous_state"], ["successor"]),
        node("Where", ["prefilling", "start", "successor"], ["state"]),
    ]


def _merge_prompt_parts() -> list[NodeProto]:
    """Merge the earlier parts of the prompt with this one into a number of script and frame."""
    return [
        node("Div", ["read_so_far", "two"], ["script_so_far"]),
        node("Mod", ["read_so_far", "two"], ["framed_so_far"]),
        node("Where", ["has_keyword", "keyword", "script_so_far"], ["script"]),
        node("Max", ["framed_here", "framed_so_far"], ["framed"]),
        node("Mul", ["script", "two"], ["doubled_script"]),
        node("Add", ["doubled_script", "framed"], ["read"]),
    ]


def _burn_time() -> list[NodeProto]:
    """Run the busy loop for the delay of the state."""
    return [
        node("Gather", ["prefill_cost_of_state", "state"], ["prefill_cost"]),
        node("Gather", ["step_cost_of_state", "state"], ["step_cost"]),
        node("Where", ["prefilling", "prefill_cost", "step_cost"], ["cost"]),
        node("Loop", ["cost", "", "cold"], ["hot"], body=make_busy_loop_body()),
    ]


def _emit_token() -> list[NodeProto]:
    """Set the logit of the state's token above zero at every position of the input."""
    return [
        node("Gather", ["token_of_state", "state"], ["token"]),
        node("ReduceSum", ["hot"], ["sum_of_heat"]),
        node("Squeeze", ["sum_of_heat", "zero"], ["token_logit"]),
        node("Concat", ["other_logits", "token_logit"], ["logit_values"], axis=0),
        node("OneHot", ["token", "vocabulary", "logit_values"], ["token_logits"]),
        node("Concat", ["one", "length", "vocabulary"], ["logits_shape"], axis=0),
        node("Expand", ["token_logits", "logits_shape"], ["logits"]),
    ]


def _store_state() -> list[NodeProto]:
    """Append the state, or the script of a prompt, to one cache and the tokens to the other."""
    return [
        node("Sub", ["minus_one", "read"], ["entry_of_reading"]),
        node("Where", ["prefilling", "entry_of_reading", "state"], ["entry"]),
        node("Cast", ["entry"], ["state_as_float"], to=TensorProto.FLOAT),
        node("Concat", ["one", "one", "length", "one"], ["entries_shape"], axis=0),
        node("Expand", ["state_as_float", "entries_shape"], ["entries"]),
        node("Concat", [PAST_KEY, "entries"], [PRESENT_KEY], axis=2),
        node("Cast", ["ids"], ["ids_as_float"], to=TensorProto.FLOAT),
        node("Reshape", ["ids_as_float", "entries_shape"], ["tokens"]),
        node("Concat", [PAST_VALUE, "tokens"], [PRESENT_VALUE], axis=2),
    ]
