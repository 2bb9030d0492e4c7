"""Time to parse the output of a model, and whether it stays linear in the length of the text.

python3 dev.py bench reading

Each parser gets texts of 16 KB to 1 MB that a looping or hostile model may write. The result is
the time per byte at 1 MB relative to 16 KB: a quadratic parser has 64. Streaming parsers get pieces
of 4 characters.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from parts.results import save_figures

from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.find_json import decode_json, iter_json_candidates
from foundry_api.structured.partial_json import PartialJsonParser
from foundry_api.structured.validation import SchemaValidator
from foundry_api.wire.chat.reasoning import ReasoningSplitter
from foundry_api.wire.chat.tool_call_matching import MalformedCall
from foundry_api.wire.chat.tool_call_parser import ToolCallParser

if TYPE_CHECKING:
    from collections.abc import Callable

    Parser = Callable[[str], object]

SIZES = {"16 KB": 1 << 14, "64 KB": 1 << 16, "256 KB": 1 << 18, "1 MB": 1 << 20}
PIECE = 4
# The time per byte of the worst text at 1 MB may be this many times that at 16 KB.
MAX_RATIO = 3

TEXTS = {
    "an open fence": ("```", "a"),
    "an open fence, blanks": ("```", " "),
    "fences": ("", "```json\n"),
    "{a": ("", "{a"),
    "{": ("", "{"),
    "[": ("", "["),
    "nested members": ("", '{"a":'),
    "members, lines": ("", '{"name":\n'),
    "a long string": ('{"a": "', "x"),
    "a long list": ("[", "1,"),
    "a list of objects": ("[", '{"a":1},'),
    "small objects": ("", '{"a":1} '),
    "blanks": ("", " "),
    "<think>": ("", "<think>"),
    "<think>, blanks": ("<think>x", " "),
    "blocks of reasoning": ("", "<think>x</think>"),
    "<tool_call>": ("", "<tool_call>"),
    "open calls": ("", '\n{"name": "clock", "arguments": {'),
    "calls": ("", '{"name": "clock", "arguments": {}}\n'),
    "quotes": ("", '"'),
    "backslashes": ("", "\\"),
    "words": ("", "the quick brown fox "),
}


def make_text(opening: str, unit: str, size: int) -> str:
    return (opening + unit * (size // len(unit) + 1))[:size]


def find_json(text: str) -> None:
    """Find the JSON in an answer, as `response_model` does."""
    try:
        for candidate in iter_json_candidates(text):
            try:
                decode_json(candidate)
            except ValidationFailed:
                continue
    except ValidationFailed:
        return


def parse_partial(text: str) -> None:
    partial = PartialJsonParser()
    for start in range(0, len(text), PIECE):
        partial.feed(text[start : start + PIECE])
    partial.finish()


def split_reasoning(text: str) -> None:
    splitter = ReasoningSplitter()
    for start in range(0, len(text), PIECE):
        splitter.feed(text[start : start + PIECE])
    splitter.flush()


def find_tool_calls(text: str) -> None:
    finder = ToolCallParser(("clock",))
    try:
        for start in range(0, len(text), PIECE):
            list(finder.feed(text[start : start + PIECE]))
        list(finder.finish())
    except MalformedCall:
        return


def validate(text: str) -> None:
    """Compare the items of a list for `uniqueItems`."""
    items: list[dict[str, Any]] = [{"a": index} for index in range(len(text) // 12)]
    SchemaValidator({"type": "array", "uniqueItems": True}).find_errors(items)


PARSERS: dict[str, Parser] = {
    "iter_json_candidates": find_json,
    "PartialJsonParser": parse_partial,
    "ReasoningSplitter": split_reasoning,
    "ToolCallParser": find_tool_calls,
}


def measure_ns_per_byte(parse: Parser, text: str) -> float:
    """Measure processor time; of short texts the best of some rounds."""
    samples: list[float] = []
    for _ in range(max(1, min(5, SIZES["64 KB"] // len(text)))):
        started = time.process_time()
        parse(text)
        samples.append(time.process_time() - started)
    return min(samples) * 1e9 / len(text)


def main() -> None:
    """Measure each parser with each text, and report the worst of each."""
    figures: dict[str, float] = {}
    cases = {
        (name, kind): (parse, *TEXTS[kind]) for name, parse in PARSERS.items() for kind in TEXTS
    }
    cases["uniqueItems", "objects"] = (validate, "", "x")
    worst: dict[str, float] = {}
    for (name, kind), (parse, opening, unit) in cases.items():
        per_byte = {
            label: measure_ns_per_byte(parse, make_text(opening, unit, size))
            for label, size in SIZES.items()
        }
        ratio = per_byte["1 MB"] / per_byte["16 KB"]
        columns = "  ".join(f"{label} {value:8.1f}" for label, value in per_byte.items())
        print(f"{name:20} {kind:22} {columns}  ns per byte, ratio {ratio:.2f}", flush=True)
        worst[name] = max(worst.get(name, 0), ratio)
        for label in ("16 KB", "1 MB"):
            key = f"ns per byte, {name}, worst text of {label}"
            figures[key] = max(figures.get(key, 0), per_byte[label])
    for name, ratio in worst.items():
        figures[f"{name}: 1 MB / 16 KB per byte, worst text"] = ratio
    save_figures("reading", figures)
    if max(worst.values()) > MAX_RATIO:
        sys.exit(f"a parser takes over {MAX_RATIO} times as long per byte at 1 MB as at 16 KB")


if __name__ == "__main__":
    main()
