"""How long it takes to read what a model wrote, and that a longer text costs no more per byte.

python3 dev.py bench reading

Each reader gets texts that a model in a loop, or one that means harm, may write, of 16 KB to 1 MB.
What counts is the time per byte at 1 MB beside that at 16 KB: for a reader that looks back in the
text it is 64. Texts come in pieces of 4 characters where a reader takes pieces.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from parts.results import keep

from foundry_api.structured.errors import ValidationFailed
from foundry_api.structured.find_json import decode_json, iter_json_candidates
from foundry_api.structured.partial_json import PartialJsonParser
from foundry_api.structured.validation import SchemaValidator
from foundry_api.wire.chat.reasoning import ReasoningSplitter
from foundry_api.wire.chat.tool_call_matching import MalformedCall
from foundry_api.wire.chat.tool_call_parser import ToolCallParser

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader = Callable[[str], object]

SIZES = {"16 KB": 1 << 14, "64 KB": 1 << 16, "256 KB": 1 << 18, "1 MB": 1 << 20}
PIECE = 4
MAX_RATIO = 3
"""Goal: the worst text, per byte of 1 MB beside 16 KB."""

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


def text_of(opening: str, unit: str, size: int) -> str:
    """A text of a size."""
    return (opening + unit * (size // len(unit) + 1))[:size]


def find_json(text: str) -> None:
    """Find the JSON in an answer, as a `to_response_model` does."""
    try:
        for candidate in iter_json_candidates(text):
            try:
                decode_json(candidate)
            except ValidationFailed:
                continue
    except ValidationFailed:
        return


def read_partial(text: str) -> None:
    """The value of a stream so far, with each piece."""
    partial = PartialJsonParser()
    for at in range(0, len(text), PIECE):
        partial.feed(text[at : at + PIECE])
    partial.finish()


def split_reasoning(text: str) -> None:
    """The reasoning of an answer, and the answer."""
    splitter = ReasoningSplitter()
    for at in range(0, len(text), PIECE):
        splitter.feed(text[at : at + PIECE])
    splitter.flush()


def find_calls(text: str) -> None:
    """The calls of tools in a text."""
    finder = ToolCallParser(("clock",))
    try:
        for at in range(0, len(text), PIECE):
            list(finder.feed(text[at : at + PIECE]))
        list(finder.finish())
    except MalformedCall:
        return


def validate(text: str) -> None:
    """Whether the objects in a list differ."""
    items: list[dict[str, Any]] = [{"a": index} for index in range(len(text) // 12)]
    SchemaValidator({"type": "array", "uniqueItems": True}).find_errors(items)


READERS: dict[str, Reader] = {
    "json_texts": find_json,
    "PartialJson": read_partial,
    "ThinkSplitter": split_reasoning,
    "CallFinder": find_calls,
}


def nanoseconds(read: Reader, text: str) -> float:
    """Processor time per byte; of short texts the best of some rounds."""
    took: list[float] = []
    for _ in range(max(1, min(5, SIZES["64 KB"] // len(text)))):
        started = time.process_time()
        read(text)
        took.append(time.process_time() - started)
    return min(took) * 1e9 / len(text)


def main() -> None:
    """Measure each reader with each text, and keep the worst of each."""
    figures: dict[str, float] = {}
    cases = {(name, kind): (read, *TEXTS[kind]) for name, read in READERS.items() for kind in TEXTS}
    cases["uniqueItems", "objects"] = (validate, "", "x")
    worst: dict[str, float] = {}
    for (name, kind), (read, opening, unit) in cases.items():
        per_byte = {at: nanoseconds(read, text_of(opening, unit, SIZES[at])) for at in SIZES}
        ratio = per_byte["1 MB"] / per_byte["16 KB"]
        columns = "  ".join(f"{at} {value:8.1f}" for at, value in per_byte.items())
        print(f"{name:14} {kind:22} {columns}  ns per byte, ratio {ratio:.2f}", flush=True)
        worst[name] = max(worst.get(name, 0), ratio)
        for at in ("16 KB", "1 MB"):
            key = f"ns per byte, {name}, worst text of {at}"
            figures[key] = max(figures.get(key, 0), per_byte[at])
    for name, ratio in worst.items():
        figures[f"{name}: 1 MB / 16 KB per byte, worst text"] = ratio
    keep("reading", figures)
    if max(worst.values()) > MAX_RATIO:
        sys.exit(f"a reader takes over {MAX_RATIO} times as long per byte of 1 MB as of 16 KB")


if __name__ == "__main__":
    main()
