"""Tool calls that a model wrote as text, found while the text arrives.

    finder = ToolCallParser(("calculate", "clock"))
    for piece in pieces:
        for found in finder.feed(piece):        # text, or a ToolCall
            ...
    for found in finder.finish():
        ...

Engines without tool calls of their own leave them in the text, and so do the others where a model
writes them in another shape than they look for (foundry-local-service.md, 6: #874, #346, #142).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

import msgspec

from foundry_api.types.errors import StreamInterrupted, ToolCallError
from foundry_api.types.messages import Chunk, FunctionCall, ToolCall
from foundry_api.wire.chat.events import make_call_id
from foundry_api.wire.chat.stream import offers_tools
from foundry_api.wire.chat.tool_call_formats import read_format
from foundry_api.wire.chat.tool_call_matching import (
    INCOMPLETE,
    CallsFound,
    Incomplete,
    MalformedCall,
    NotACall,
    TextWindow,
    match_calls,
    read_end_mark,
)
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from foundry_api.types.messages import ChatRequest, FinishReason
    from foundry_api.wire.chat.events import ChatDecoder, StreamEnd
    from foundry_api.wire.chat.tool_call_matching import ParsedCall

__all__ = [
    "MalformedCall",
    "ToolCallParser",
    "ToolCallRecovery",
    "make_call_id",
    "with_tool_recovery",
]


MAX_PENDING: Final = 256 * 1024
"""Characters of one call; no text is held back for longer than that."""

THROTTLE_FROM: Final = 1024
"""Characters from which on a call is not looked at again with every piece, but when it has grown by
a sixteenth: it is read from its beginning each time."""

MAX_INVALID_STARTS: Final = 32
"""JSON that is broken or never ends is read to its end for each beginning within it. After so many
beginnings no more of it is taken for a call; marked calls still are."""

MAX_INVALID_CHARACTERS: Final = 512 * 1024
"""Characters of such JSON that are read, after which no more of it is taken for a call either."""

_POSSIBLE_CALL: Final = re.compile(
    r"[{\[`]"
    r"|<(?=tool_call|function|TOOLCALL|/|\|(?:tool_call|channel|start|python|call|e|im|/)"
    r"|\uff5c(?:tool|end)|[^<>\s]{0,40}\Z)"
    r"|f(?=unctools|u?n?c?t?o?o?l?s?\Z)|t(?=o=|o?\Z)"
)
"""What a call can begin with, or the mark of its end."""

_TRAILING_NOISE: Final = "}] \t\r\n\f\v"
_WITHIN_LINE: Final = re.compile(r"[<f]|\[(?=T|\Z)")
"""What begins one behind other text on its line."""


class ToolCallParser:
    """Tells tool calls from text, and holds text back that may be the beginning of a call.

    Args:
        tools: The names of the tools that were offered, perhaps with the JSON schemas of their
            arguments, which tell how to read those that are written as text.
        new_id: Names a call.
    """

    def __init__(
        self,
        tools: Collection[str] | Mapping[str, Mapping[str, Any]],
        *,
        new_id: Callable[[], str] = make_call_id,
    ) -> None:
        self._tools = _get_schemas(tools)
        self._new_id = new_id
        self._pending = ""
        self._line_is_blank = True
        self._after_call = False
        self._new_text: list[str] = []
        self._skip_characters = 0
        self._invalid_starts = 0
        self._invalid_characters = 0

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """The text and the calls that are complete with this piece.

        Raises:
            MalformedCall: A marked call cannot be read. The text ahead of it was yielded.
        """
        self._new_text.append(text)
        self._skip_characters -= len(text)
        if self._skip_characters <= 0:
            yield from self._parse(is_final=False)

    def finish(self) -> Iterator[str | ToolCall]:
        """What is left when no more comes.

        Raises:
            MalformedCall: A marked call is not complete.
        """
        yield from self._parse(is_final=True)

    def flush(self) -> str:
        """The text that is held back, as it is."""
        pending, self._pending = self._pending + "".join(self._new_text), ""
        self._new_text.clear()
        return pending

    def _parse(self, *, is_final: bool) -> Iterator[str | ToolCall]:
        text = self._pending + "".join(self._new_text)
        self._new_text.clear()
        start = position = scanned = 0
        try:
            while match := _POSSIBLE_CALL.search(text, position):
                position = match.start()
                self._line_is_blank = _is_blank_line(text[scanned:position], self._line_is_blank)
                scanned = position
                if not (self._starts_line or _WITHIN_LINE.match(text, position)):
                    position += 1
                    continue
                try:
                    match_result = self._match_at(text, position, is_final=is_final)
                    calls = (
                        self._make_calls(match_result, text, position)
                        if _is_calls(match_result)
                        else ()
                    )
                except MalformedCall:
                    yield from self._emit_text(text[start:position])
                    start = position
                    raise
                if _is_calls(match_result):
                    yield from self._emit_text(text[start:position])
                    yield from calls
                    start = position = scanned = match_result.end
                    self._line_is_blank = self._after_call = True
                elif match_result is INCOMPLETE:
                    yield from self._emit_text(text[start:position])
                    start = position
                    self._skip_characters = max(0, len(text) - position - THROTTLE_FROM) // 16
                    return
                else:
                    position = (
                        match_result.end if isinstance(match_result, NotACall) else position + 1
                    )
            self._line_is_blank = _is_blank_line(text[scanned:], self._line_is_blank)
            yield from self._emit_text(text[start:])
            start = len(text)
        finally:
            self._pending = text[start:]

    @property
    def _starts_line(self) -> bool:
        """Whether JSON by itself may be a call here."""
        return (
            self._line_is_blank
            and self._invalid_starts < MAX_INVALID_STARTS
            and self._invalid_characters < MAX_INVALID_CHARACTERS
        )

    def _match_at(
        self, text: str, position: int, *, is_final: bool
    ) -> CallsFound | Incomplete | NotACall | None:
        is_final = is_final or len(text) - position > MAX_PENDING
        window = TextWindow(text, position, is_final, self._starts_line)
        if self._after_call and (end_mark := read_end_mark(window)) is not None:
            return end_mark
        match_result: CallsFound | Incomplete | NotACall | None = read_format(window, self._tools)
        if not isinstance(match_result, CallsFound):
            shape_result = match_calls(window, self._tools)
            match_result = (
                shape_result
                if match_result is None or isinstance(shape_result, CallsFound)
                else match_result
            )
        if (match_result is INCOMPLETE and is_final) or (
            isinstance(match_result, NotACall) and not match_result.is_json
        ):
            self._invalid_starts += 1
            self._invalid_characters += (
                match_result.end if isinstance(match_result, NotACall) else len(text)
            ) - position
            return None
        return match_result

    def _make_calls(self, match_result: CallsFound, text: str, position: int) -> list[ToolCall]:
        try:
            return [self._make_call(call) for call in match_result.calls]
        except (ValueError, RecursionError) as error:  # infinity, or nested too deeply
            reason = f"its arguments are not JSON: {error}"
            raise MalformedCall(reason, text[position : match_result.end]) from None

    def _make_call(self, parsed_call: ParsedCall) -> ToolCall:
        arguments = json.dumps(
            parsed_call.arguments, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        # Half a surrogate pair, which nobody can encode, becomes U+FFFD.
        arguments = arguments.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return ToolCall(parsed_call.id or self._new_id(), FunctionCall(parsed_call.name, arguments))

    def _emit_text(self, text: str) -> Iterator[str]:
        """Let go of some text. White space behind a call says nothing, nor does a spare bracket."""
        text = text.lstrip(_TRAILING_NOISE) if self._after_call else text
        if text:
            self._after_call = False
            yield text


def _is_calls(match_result: object) -> TypeGuard[CallsFound]:
    return isinstance(match_result, CallsFound)


def _get_schemas(
    tools: Collection[str] | Mapping[str, Mapping[str, Any]],
) -> Mapping[str, Mapping[str, Any]]:
    if isinstance(tools, Mapping):
        return cast("Mapping[str, Mapping[str, Any]]", tools)
    return {name: {} for name in tools}


def _is_blank_line(text: str, was_blank: bool) -> bool:  # noqa: FBT001 - a state, not an option
    """Whether the line at the end of the text is blank so far."""
    _, line_break, line = text.rpartition("\n")
    return not line.strip() and (bool(line_break) or was_blank)


def with_tool_recovery(stream: ChatDecoder, model_id: str, request: ChatRequest) -> ChatDecoder:
    """A decoder that finds calls in the text where the model was offered tools."""
    if not offers_tools(request):
        return stream
    tools = {tool.name: tool.parameters for tool in request.tools}
    return ToolCallRecovery(stream, model_id, tools)


class ToolCallRecovery:
    """A decoder that finds the calls that a model wrote as text.

    Text that may be the beginning of a call is held back until that is clear. A call that the
    service found too, as 1.x does behind the same text, is told once.

    Args:
        stream: Decodes the events.
        model_id: The model that answers.
        tools: The names of the tools that were offered, with the JSON schemas of their arguments.
    """

    def __init__(
        self,
        stream: ChatDecoder,
        model_id: str,
        tools: Collection[str] | Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._stream = stream
        self._model_id = model_id
        self._finder = ToolCallParser(tools)
        self._raw: list[bytes] = []
        self._parsed_calls: list[tuple[str, object]] = []
        self._has_text = False
        self._has_calls = False
        self.done = False

    @property
    def chunk_count(self) -> int:
        """Pieces of the answer that came, those that are held back included."""
        return self._stream.chunk_count

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces that this block completes, without what may yet be a call.

        Raises:
            ToolCallError: A call cannot be read.
        """
        try:
            for chunk in self._stream.feed(block):
                yield from self._process_chunk(chunk)
        except Exception:
            if pending := self._finder.flush():  # the text ahead of an error is the caller's
                yield self._make_chunk(pending)
            raise
        if self._stream.done:
            yield from self._process_pieces(self._finder.finish())
            self.done = True

    def finish(self) -> StreamEnd:
        """How the answer ended.

        Raises:
            ToolCallError: The service kept all of the answer to itself, as 2.0 does in a stream
                where the model called a tool in a way that it cannot read.
        """
        ending = self._stream.finish()
        if self._has_calls and ending.finish_reason == "stop":
            return msgspec.structs.replace(ending, finish_reason="tool_calls")
        withheld = ending.usage.completion_tokens
        if withheld > 1 and not self._has_text and not self._has_calls and not ending.stopped_early:
            raise ToolCallError(
                f"the service sent nothing of an answer of {withheld} tokens, which it took for a "
                "call of a tool that cannot be read"
            )
        return ending

    def _process_chunk(self, chunk: Chunk) -> Iterator[Chunk]:
        if chunk.content:
            self._raw.append(chunk.raw)
            yield from self._process_pieces(self._finder.feed(chunk.content))
        elif chunk.tool_calls:
            yield from self._process_native_calls(chunk)
        else:
            self._has_text = True
            yield chunk

    def _process_native_calls(self, chunk: Chunk) -> Iterator[Chunk]:
        calls = tuple(call for call in chunk.tool_calls if not self._is_duplicate(call))
        for call in calls:
            self._check_end(call)
        if calls:
            self._has_calls = True
            yield msgspec.structs.replace(chunk, tool_calls=calls)

    def _check_end(self, call: ToolCall) -> None:
        """Refuse a call whose arguments were cut.

        Raises:
            ToolCallError: They were, at the greatest length of the answer.
        """
        if self._get_finish_reason() == "length" and isinstance(_call_signature(call)[1], str):
            text = call.function.arguments
            raise _make_truncation_error(
                f"the arguments of {call.function.name} are not complete", text
            )

    def _get_finish_reason(self) -> FinishReason | None:
        try:
            return self._stream.finish().finish_reason
        except StreamInterrupted:
            return None

    def _is_duplicate(self, call: ToolCall) -> bool:
        signature = _call_signature(call)
        if signature not in self._parsed_calls:
            return False
        self._parsed_calls.remove(signature)
        return True

    def _process_pieces(self, pieces: Iterator[str | ToolCall]) -> Iterator[Chunk]:
        try:
            for piece in pieces:
                yield self._make_chunk(piece)
        except MalformedCall as error:
            self._finder.flush()
            if self._stream.done and self._get_finish_reason() == "length":
                raise _make_truncation_error(error.reason, error.text) from error
            raise ToolCallError(
                f"the model's call of a tool cannot be read: {error.reason}", text=error.text
            ) from error

    def _make_chunk(self, piece: str | ToolCall) -> Chunk:
        raw, self._raw = b"\n".join(self._raw), []
        if isinstance(piece, str):
            self._has_text = True
            return Chunk(piece, self._model_id, raw=raw)
        self._has_calls = True
        self._parsed_calls.append(_call_signature(piece))
        return Chunk("", self._model_id, raw=raw, tool_calls=(piece,))


def _make_truncation_error(reason: str, text: str) -> ToolCallError:
    return ToolCallError(
        f"the model's call of a tool was cut at the greatest length of the answer: {reason}",
        text=text,
        finish_reason="length",
    )


def _call_signature(call: ToolCall) -> tuple[str, object]:
    """What a call says, however it is written."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except NOT_JSON:
        arguments = call.function.arguments
    return call.function.name, arguments
