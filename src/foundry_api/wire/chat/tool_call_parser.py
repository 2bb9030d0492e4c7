"""Tool calls that a model wrote as text, found while the text arrives.

    finder = CallFinder(("calculate", "clock"))
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
from foundry_api.wire.chat.events import new_call_id
from foundry_api.wire.chat.stream import offers_tools
from foundry_api.wire.chat.tool_call_formats import read_format
from foundry_api.wire.chat.tool_call_matching import (
    NOT_YET,
    Found,
    MalformedCall,
    NoCall,
    NotYet,
    Seen,
    look,
    read_end_mark,
)
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from foundry_api.types.messages import ChatRequest, FinishReason
    from foundry_api.wire.chat.tool_call_matching import WrittenCall
    from foundry_api.wire.dialects.base import ChatDecoder, Ending

__all__ = ["CallFinder", "MalformedCall", "Recovered", "new_call_id", "recovering"]


MAX_HELD: Final = 256 * 1024
"""Characters of one call; no text is held back for longer than that."""

PATIENT_FROM: Final = 1024
"""Characters from which on a call is not looked at again with every piece, but when it has grown by
a sixteenth: it is read from its beginning each time."""

MAX_BROKEN: Final = 32
"""JSON that is broken or never ends is read to its end for each beginning within it. After so many
beginnings no more of it is taken for a call; marked calls still are."""

MAX_WASTED: Final = 512 * 1024
"""Characters of such JSON that are read, after which no more of it is taken for a call either."""

_SUSPICIOUS: Final = re.compile(
    r"[{\[`]"
    r"|<(?=tool_call|function|TOOLCALL|/|\|(?:tool_call|channel|start|python|call|e|im|/)"
    r"|\uff5c(?:tool|end)|[^<>\s]{0,40}\Z)"
    r"|f(?=unctools|u?n?c?t?o?o?l?s?\Z)|t(?=o=|o?\Z)"
)
"""What a call can begin with, or the mark of its end."""

_SPARE: Final = "}] \t\r\n\f\v"
_WITHIN_LINE: Final = re.compile(r"[<f]|\[(?=T|\Z)")
"""What begins one behind other text on its line."""


class CallFinder:
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
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._tools = _schemas(tools)
        self._new_id = new_id
        self._held = ""
        self._line_is_blank = True
        self._after_call = False
        self._more: list[str] = []
        self._waits_for = 0
        self._broken = 0
        self._wasted = 0

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        """The text and the calls that are complete with this piece.

        Raises:
            MalformedCall: A marked call cannot be read. The text ahead of it was yielded.
        """
        self._more.append(text)
        self._waits_for -= len(text)
        if self._waits_for <= 0:
            yield from self._found(final=False)

    def finish(self) -> Iterator[str | ToolCall]:
        """What is left when no more comes.

        Raises:
            MalformedCall: A marked call is not complete.
        """
        yield from self._found(final=True)

    def release(self) -> str:
        """The text that is held back, as it is."""
        held, self._held = self._held + "".join(self._more), ""
        self._more.clear()
        return held

    def _found(self, *, final: bool) -> Iterator[str | ToolCall]:
        text = self._held + "".join(self._more)
        self._more.clear()
        start = at = seen = 0
        try:
            while match := _SUSPICIOUS.search(text, at):
                at = match.start()
                self._line_is_blank = _blank_line(text[seen:at], self._line_is_blank)
                seen = at
                if not (self._starts_line or _WITHIN_LINE.match(text, at)):
                    at += 1
                    continue
                try:
                    found = self._look(text, at, final=final)
                    calls = self._calls(found, text, at) if _is_found(found) else ()
                except MalformedCall:
                    yield from self._text(text[start:at])
                    start = at
                    raise
                if _is_found(found):
                    yield from self._text(text[start:at])
                    yield from calls
                    start = at = seen = found.end
                    self._line_is_blank = self._after_call = True
                elif found is NOT_YET:
                    yield from self._text(text[start:at])
                    start = at
                    self._waits_for = max(0, len(text) - at - PATIENT_FROM) // 16
                    return
                else:
                    at = found.end if isinstance(found, NoCall) else at + 1
            self._line_is_blank = _blank_line(text[seen:], self._line_is_blank)
            yield from self._text(text[start:])
            start = len(text)
        finally:
            self._held = text[start:]

    @property
    def _starts_line(self) -> bool:
        """Whether JSON by itself may be a call here."""
        return self._line_is_blank and self._broken < MAX_BROKEN and self._wasted < MAX_WASTED

    def _look(self, text: str, at: int, *, final: bool) -> Found | NotYet | NoCall | None:
        final = final or len(text) - at > MAX_HELD
        seen = Seen(text, at, final, self._starts_line)
        if self._after_call and (end := read_end_mark(seen)) is not None:
            return end
        found: Found | NotYet | NoCall | None = read_format(seen, self._tools)
        if not isinstance(found, Found):
            shaped = look(seen, self._tools)
            found = shaped if found is None or isinstance(shaped, Found) else found
        if (found is NOT_YET and final) or (isinstance(found, NoCall) and not found.is_json):
            self._broken += 1
            self._wasted += (found.end if isinstance(found, NoCall) else len(text)) - at
            return None
        return found

    def _calls(self, found: Found, text: str, at: int) -> list[ToolCall]:
        try:
            return [self._call(call) for call in found.calls]
        except (ValueError, RecursionError) as error:  # infinity, or nested too deeply
            reason = f"its arguments are not JSON: {error}"
            raise MalformedCall(reason, text[at : found.end]) from None

    def _call(self, written: WrittenCall) -> ToolCall:
        arguments = json.dumps(
            written.arguments, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        # Half a surrogate pair, which nobody can encode, becomes U+FFFD.
        arguments = arguments.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return ToolCall(written.id or self._new_id(), FunctionCall(written.name, arguments))

    def _text(self, text: str) -> Iterator[str]:
        """Let go of some text. White space behind a call says nothing, nor does a spare bracket."""
        text = text.lstrip(_SPARE) if self._after_call else text
        if text:
            self._after_call = False
            yield text


def _is_found(found: object) -> TypeGuard[Found]:
    return isinstance(found, Found)


def _schemas(
    tools: Collection[str] | Mapping[str, Mapping[str, Any]],
) -> Mapping[str, Mapping[str, Any]]:
    if isinstance(tools, Mapping):
        return cast("Mapping[str, Mapping[str, Any]]", tools)
    return {name: {} for name in tools}


def _blank_line(text: str, was_blank: bool) -> bool:  # noqa: FBT001 - a state, not an option
    """Whether the line at the end of the text is blank so far."""
    _, line_break, line = text.rpartition("\n")
    return not line.strip() and (bool(line_break) or was_blank)


def recovering(stream: ChatDecoder, model_id: str, request: ChatRequest) -> ChatDecoder:
    """A decoder that finds calls in the text where the model was offered tools."""
    if not offers_tools(request):
        return stream
    tools = {tool.name: tool.parameters for tool in request.tools}
    return Recovered(stream, model_id, tools)


class Recovered:
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
        self._finder = CallFinder(tools)
        self._raw: list[bytes] = []
        self._written: list[tuple[str, object]] = []
        self._said = False
        self._called = False
        self.done = False

    @property
    def pieces(self) -> int:
        """Pieces of the answer that came, those that are held back included."""
        return self._stream.pieces

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces that this block completes, without what may yet be a call.

        Raises:
            ToolCallError: A call cannot be read.
        """
        try:
            for chunk in self._stream.feed(block):
                yield from self._passed(chunk)
        except Exception:
            if held := self._finder.release():  # the text ahead of an error is the caller's
                yield self._chunk(held)
            raise
        if self._stream.done:
            yield from self._found(self._finder.finish())
            self.done = True

    def finish(self) -> Ending:
        """How the answer ended.

        Raises:
            ToolCallError: The service kept all of the answer to itself, as 2.0 does in a stream
                where the model called a tool in a way that it cannot read.
        """
        ending = self._stream.finish()
        if self._called and ending.finish_reason == "stop":
            return msgspec.structs.replace(ending, finish_reason="tool_calls")
        withheld = ending.usage.completion_tokens
        if withheld > 1 and not self._said and not self._called and not ending.early:
            raise ToolCallError(
                f"the service sent nothing of an answer of {withheld} tokens, which it took for a "
                "call of a tool that cannot be read"
            )
        return ending

    def _passed(self, chunk: Chunk) -> Iterator[Chunk]:
        if chunk.content:
            self._raw.append(chunk.raw)
            yield from self._found(self._finder.feed(chunk.content))
        elif chunk.tool_calls:
            yield from self._native(chunk)
        else:
            self._said = True
            yield chunk

    def _native(self, chunk: Chunk) -> Iterator[Chunk]:
        calls = tuple(call for call in chunk.tool_calls if not self._is_told(call))
        for call in calls:
            self._check_end(call)
        if calls:
            self._called = True
            yield msgspec.structs.replace(chunk, tool_calls=calls)

    def _check_end(self, call: ToolCall) -> None:
        """Refuse a call whose arguments were cut.

        Raises:
            ToolCallError: They were, at the greatest length of the answer.
        """
        if self._finish_reason() == "length" and isinstance(_meaning(call)[1], str):
            text = call.function.arguments
            raise _cut(f"the arguments of {call.function.name} are not complete", text)

    def _finish_reason(self) -> FinishReason | None:
        try:
            return self._stream.finish().finish_reason
        except StreamInterrupted:
            return None

    def _is_told(self, call: ToolCall) -> bool:
        meaning = _meaning(call)
        if meaning not in self._written:
            return False
        self._written.remove(meaning)
        return True

    def _found(self, pieces: Iterator[str | ToolCall]) -> Iterator[Chunk]:
        try:
            for piece in pieces:
                yield self._chunk(piece)
        except MalformedCall as error:
            self._finder.release()
            if self._stream.done and self._finish_reason() == "length":
                raise _cut(error.reason, error.text) from error
            raise ToolCallError(
                f"the model's call of a tool cannot be read: {error.reason}", text=error.text
            ) from error

    def _chunk(self, piece: str | ToolCall) -> Chunk:
        raw, self._raw = b"\n".join(self._raw), []
        if isinstance(piece, str):
            self._said = True
            return Chunk(piece, self._model_id, raw=raw)
        self._called = True
        self._written.append(_meaning(piece))
        return Chunk("", self._model_id, raw=raw, tool_calls=(piece,))


def _cut(reason: str, text: str) -> ToolCallError:
    return ToolCallError(
        f"the model's call of a tool was cut at the greatest length of the answer: {reason}",
        text=text,
        finish_reason="length",
    )


def _meaning(call: ToolCall) -> tuple[str, object]:
    """What a call says, however it is written."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except NOT_JSON:
        arguments = call.function.arguments
    return call.function.name, arguments
