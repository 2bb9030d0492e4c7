"""The shapes in which models write tool calls.

- `<tool_call>{…}</tool_call>` (Hermes, Qwen), `<|tool_call|>[…]<|/tool_call|>` (Phi-4-mini)
- `functools[{…}]` (Phi-3.5), `[TOOL_CALLS] [{…}]` (Mistral)
- `<function=name>{…}</function>` (Llama)
- the same between `<tool_calls>`, `<function_call>`, `<functioncall>` and `<TOOLCALL>` tags
- JSON by itself at the start of a line, also in a fence, as one call or a list of them

A call is `{"name": …, "arguments" or "parameters": …}`, its arguments an object or one as text, or
OpenAI's `{"type": "function", "function": {…}}`. A marker is proof enough: what follows it is a
call, whatever its name, or a malformed one. JSON by itself is a call only if it has the shape of
one, nothing besides, and the name of a tool that was offered.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from foundry_api.types.values import is_list, is_object

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = [
    "LONGEST_MARKER",
    "NOT_YET",
    "Found",
    "MalformedCall",
    "NoCall",
    "NotYet",
    "Seen",
    "WrittenCall",
    "call_of",
    "decoded",
    "end_of_value",
    "look",
    "read_end_mark",
]


LONGEST_MARKER: Final = 64
"""Characters; a text is copied no further to see whether a marker begins."""


class MalformedCall(ValueError):
    """A call that cannot be read.

    Args:
        reason: What is wrong with it.
        text: What the model wrote.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the text.

    Attributes:
        text: What came so far.
        at: The place that is looked at.
        final: Whether no more will come.
        starts_line: Whether nothing but blanks stands before it on its line.
    """

    text: str
    at: int
    final: bool
    starts_line: bool

    @property
    def rest(self) -> str:
        """The text from that place on, as far as a marker can reach."""
        return self.text[self.at : self.at + LONGEST_MARKER]


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call as the model wrote it; most have no id."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Calls, and where in the text they end."""

    calls: tuple[WrittenCall, ...]
    end: int


@dataclass(frozen=True, slots=True)
class NoCall:
    """What is no call though it has the brackets of one, and where it ends.

    No part of it is looked at as a call if it is JSON.
    """

    end: int
    is_json: bool = True


class NotYet:
    """What may become a call with more text."""


NOT_YET: Final = NotYet()


def look(seen: Seen, names: Collection[str]) -> Found | NotYet | NoCall | None:
    """Tell what stands at a place of the text: calls, what may become some, or neither.

    Where no more text comes, what may become a call is none.

    Raises:
        MalformedCall: A marked call cannot be read.
    """
    undecided = False
    no_call: NoCall | None = None
    for shape in _SHAPES.get(seen.text[seen.at], ()):
        found = shape(seen, names)
        if isinstance(found, Found):
            return found
        undecided = undecided or found is NOT_YET
        no_call = found if isinstance(found, NoCall) else no_call
    return NOT_YET if undecided else no_call


_TAGS: Final = {
    "<tool_call>": "</tool_call>",
    "<|tool_call|>": "<|/tool_call|>",
    "<tool_calls>": "</tool_calls>",
    "<function_call>": "</function_call>",
    "<functioncall>": "</functioncall>",
    "<TOOLCALL>": "</TOOLCALL>",
}
_END_MARKS: Final = (
    *(*_TAGS.values(), "</function>", "[/TOOL_CALLS]", "<|tool_call_end|>", "<|call|>", "<|end|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "</s>"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
"""What models and engines leave behind a call, which says nothing."""
_BLANKS: Final = re.compile(r"[\s,;]*")
_BEHIND: Final = re.compile(r"[\s,;}\]]*")
"""What stands behind a call: some models close more brackets than they opened."""


def read_end_mark(seen: Seen) -> Found | NotYet | None:
    """Tell whether the mark of an end stands at a place of the text behind a call."""
    rest = seen.rest
    for mark in _END_MARKS:
        if rest.startswith(mark):
            return Found((), seen.at + len(mark))
    begun = any(mark.startswith(rest) for mark in _END_MARKS)
    return NOT_YET if begun and not seen.final else None


def _tagged(seen: Seen, names: Collection[str]) -> Found | NotYet | None:
    """One or more values between two tags, of which models forget the second."""
    del names
    rest = seen.rest
    for opening, closing in _TAGS.items():
        if rest.startswith(opening):
            return _until(seen, seen.at + len(opening), closing)
    return NOT_YET if any(opening.startswith(rest) for opening in _TAGS) else None


def _until(seen: Seen, at: int, closing: str) -> Found | NotYet | None:
    calls: list[WrittenCall] = []
    while True:
        at = _past(_BEHIND if calls else _BLANKS, seen.text, at)
        rest = seen.text[at : at + len(closing)]
        if rest == closing:
            return _closed(seen, calls, at + len(closing))
        if closing.startswith(rest):
            if not seen.final:
                return NOT_YET
            return Found(tuple(calls), len(seen.text)) if calls else None
        if rest[:1] not in ("{", "["):
            return Found(tuple(calls), at) if calls else None
        end = end_of_value(seen.text, at, closing)
        if end is None and not seen.final:
            return NOT_YET
        calls += _marked(seen, at, end)
        at = end or len(seen.text)


def _closed(seen: Seen, calls: list[WrittenCall], end: int) -> Found:
    if not calls:
        raise MalformedCall("there is no call between its markers", seen.text[seen.at : end])
    return Found(tuple(calls), end)


_LISTED: Final = re.compile(r"functools(?=\[\s*\{)|\[TOOL_CALLS\]\s*(?=[\[{])")
_LISTED_SO_FAR: Final = re.compile(r"functools\[\s*|\[TOOL_CALLS\]\s*")


def _listed(seen: Seen, names: Collection[str]) -> Found | NotYet | None:
    """A list behind a word."""
    del names
    if match := _LISTED.match(seen.text, seen.at):
        end = end_of_value(seen.text, match.end())
        if end is None and not seen.final:
            return NOT_YET
        return Found(tuple(_marked(seen, match.end(), end)), end or len(seen.text))
    begun = any(word.startswith(seen.rest) for word in ("functools[", "[TOOL_CALLS]"))
    return NOT_YET if begun or _LISTED_SO_FAR.fullmatch(seen.text, seen.at) else None


_NAMED: Final = re.compile(r"<function=([^<>\s]+)>\s*(?=\{)")
_NAMED_SO_FAR: Final = re.compile(r"<function=[^<>\s]{0,64}(?:>\s*)?")
_NAMED_END: Final = "</function>"
_QUOTES: Final = "\"'"


def _named(seen: Seen, names: Collection[str]) -> Found | NotYet | None:
    """Arguments between tags that have the name."""
    del names
    match = _NAMED.match(seen.text, seen.at)
    if not match:
        begun = "<function=".startswith(seen.rest)
        return NOT_YET if begun or _NAMED_SO_FAR.fullmatch(seen.text, seen.at) else None
    end = end_of_value(seen.text, match.end(), _NAMED_END)
    if end is None and not seen.final:
        return NOT_YET
    raw = seen.text[seen.at : end]
    call = call_of(
        {"name": match[1].strip(_QUOTES), "arguments": decoded(seen.text[match.end() : end], raw)}
    )
    if call is None:
        raise MalformedCall("its arguments are not a JSON object", raw)
    end = end or len(seen.text)
    behind = _past(_BEHIND, seen.text, end)
    if seen.text.startswith(_NAMED_END, behind):
        return Found((call,), behind + len(_NAMED_END))
    if not seen.final and _NAMED_END.startswith(seen.text[behind : behind + LONGEST_MARKER]):
        return NOT_YET
    return Found((call,), end)


_FENCE: Final = re.compile(r"```(?:json|tool_calls?)?[ \t]*\r?\n\s*")
_FENCE_SO_FAR: Final = re.compile(r"`{1,3}|```[a-z_]{0,10}[ \t]*\r?")


def _fenced(seen: Seen, names: Collection[str]) -> Found | NotYet | NoCall | None:
    """JSON in a fence."""
    if not seen.starts_line:
        return None
    match = _FENCE.match(seen.text, seen.at)
    if not match:
        return NOT_YET if _FENCE_SO_FAR.fullmatch(seen.text, seen.at) else None
    found = _unmarked(seen, match.end(), names)
    if not isinstance(found, Found):
        return found
    behind = _past(_BEHIND, seen.text, found.end)
    if seen.text.startswith("```", behind):
        return Found(found.calls, behind + len("```"))
    if "```".startswith(seen.text[behind : behind + LONGEST_MARKER]):
        return Found(found.calls, len(seen.text)) if seen.final else NOT_YET
    return None


def _bare(seen: Seen, names: Collection[str]) -> Found | NotYet | NoCall | None:
    """JSON by itself."""
    return _unmarked(seen, seen.at, names) if seen.starts_line else None


_SHAPES: Final = {
    "<": (_tagged, _named),
    "f": (_listed,),
    "[": (_listed, _bare),
    "{": (_bare,),
    "`": (_fenced,),
}
"""By the character that they begin with."""

_KEYS: Final = frozenset({"name", "type", "function", "id", "arguments", "parameters"})
_ARGUMENTS: Final = ("arguments", "parameters", "args", "input")
_TOLD_BESIDES: Final = frozenset({"index", "description", "strict"})
_BEGUN_KEYS: Final = "|".join(
    sorted({key[:length] for key in _KEYS for length in range(1, len(key) + 1)}, reverse=True)
)
_CALL: Final = re.compile(rf'(?:\[\s*)?\{{\s*"(?:{"|".join(sorted(_KEYS))})"\s*:')
_CALL_SO_FAR: Final = re.compile(rf'(?:\[\s*)?(?:\{{\s*(?:"(?:(?:{_BEGUN_KEYS})(?:"\s*)?)?)?)?')
_NAME: Final = re.compile(r'(?:\[\s*)?\{\s*"name"\s*:\s*"([^"\\]*)"')


def _unmarked(seen: Seen, at: int, names: Collection[str]) -> Found | NotYet | NoCall | None:
    """A call or a list of them that nothing but its shape and its name tells from other JSON."""
    if not _CALL.match(seen.text, at):
        return NOT_YET if _CALL_SO_FAR.fullmatch(seen.text, at) else None
    named = _NAME.match(seen.text, at)
    if named and named[1] not in names:
        return None
    end = end_of_value(seen.text, at)
    if end is None:
        return NOT_YET
    try:
        items = _items(decoded(seen.text[at:end], ""))
    except MalformedCall:
        return NoCall(end, is_json=False)
    calls = [call_of(item) for item in items if _is_nothing_but_a_call(item)]
    offered = [call for call in calls if call and call.name in names]
    return Found(tuple(offered), end) if offered and len(offered) == len(items) else NoCall(end)


def _is_nothing_but_a_call(item: Any) -> bool:
    if not is_object(item) or not item.keys() <= _KEYS:
        return False
    function = item.get("function")
    inner = function if is_object(function) else item
    return "arguments" in inner or "parameters" in inner


def _marked(seen: Seen, at: int, end: int | None) -> Iterator[WrittenCall]:
    """The calls of a value that has to be one or more."""
    raw = seen.text[seen.at : end]
    if end is None:
        raise MalformedCall("it is not complete", raw)
    items = _items(decoded(seen.text[at:end], raw))
    if not items:
        raise MalformedCall("it is an empty list", raw)
    for item in items:
        call = call_of(item)
        if call is None:
            raise MalformedCall("it has no name, or its arguments are not a JSON object", raw)
        yield call


def _items(value: Any) -> list[Any]:
    return value if is_list(value) else [value]


def call_of(item: Any) -> WrittenCall | None:
    """The call that a JSON value is; None if it is none."""
    if not is_object(item):
        return None
    function: Any = item.get("function", item)
    inner: Any = {**item, "name": function} if isinstance(function, str) else function
    if not is_object(inner):
        return None
    name, call_id = inner.get("name"), item.get("id")
    given = [inner[key] for key in _ARGUMENTS if key in inner]
    if not given and not inner.keys() <= _KEYS | _TOLD_BESIDES:
        return None  # its arguments would be lost
    arguments: Any = (given[0] if given else None) or {}
    if isinstance(arguments, str):
        try:
            arguments = decoded(arguments, "")
        except MalformedCall:
            return None
    if not (name and isinstance(name, str) and is_object(arguments)):
        return None
    return WrittenCall(name, arguments, call_id if isinstance(call_id, str) and call_id else None)


def decoded(text: str, raw: str) -> Any:
    """A JSON value; models write line breaks into strings, which JSON does not allow."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise MalformedCall(f"it is not JSON: {error}", raw) from None


_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]|<[|/]', re.DOTALL)


def end_of_value(text: str, start: int, closing: str | None = None) -> int | None:
    """Where an object or a list ends; None if it does not end yet.

    Args:
        text: Holds it.
        start: Its bracket.
        closing: What ends it in any case, unless in a string.
    """
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
            if not depth:
                return token.end()
        elif token[0] == '"':
            return None
        elif closing and text.startswith(closing, token.start()):
            return token.start()
    return None


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at
