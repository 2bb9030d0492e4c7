"""Separates reasoning from the answer, in `<think>` blocks and in gpt-oss channels.

SDK 2.1 and later send reasoning as `reasoning_content`; older generations leave it in the text.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

__all__ = [
    "OPENINGS",
    "ChannelSplitter",
    "ReasoningSplitter",
    "Split",
    "opens_block_in_prompt",
    "split_reasoning",
]

_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
_BLANKS: Final = re.compile(r"\s*")

# Some chat templates open the block in the prompt, so that the answer has only `</think>`:
# DeepSeek-R1's, QwQ's, and those of Qwen3's thinking models.
_OPENS_IN_PROMPT: Final = re.compile(
    r"deepseek-?r1|\br1-distill|\bqwq\b|[-_]thinking\b", re.IGNORECASE
)

# Characters before a marker that an answer talks about. They do not end reasoning.
_QUOTING_CHARACTERS: Final = " \t`\"'([{<"

# How an answer in channels begins (gpt-oss).
OPENINGS: Final = ("<|channel|>", "<|start|>assistant")
_STARTS: Final = (_OPEN, *OPENINGS)

MAX_HEADER: Final = 400  # characters; a longer header is text

_MARKER: Final = re.compile(r"<\|(start|channel|constrain|message|end|call|return)\|>")
_MARKERS: Final = (
    *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"),
    "<|return|>",
)
_MAX_MARKER_LENGTH: Final = max(map(len, _MARKERS))
_RECIPIENT: Final = re.compile(r"\bto=")

_State = Literal["between", "header", "reasoning", "content"]


class Split(NamedTuple):
    """The two kinds of text in a piece of an answer."""

    reasoning: str
    content: str


def opens_block_in_prompt(model_id: str) -> bool:
    """Return whether a model's prompt ends with `<think>`, judging by its name."""
    return _OPENS_IN_PROMPT.search(model_id) is not None


def split_reasoning(reasoning: str, content: str) -> Split:
    """Split a complete answer; `reasoning` is what was separated before."""
    if reasoning:
        # Because of the model's name, a stream may have yielded the answer as reasoning, too.
        return Split("" if reasoning.strip() == content.strip() else reasoning, content)
    if "think>" not in content and "<|" not in content:
        return Split("", content)
    splitter = ReasoningSplitter()
    thinking, text = splitter.feed(content)
    if not splitter.is_decided:
        rest = splitter.flush()
        thinking, text = thinking + rest.reasoning, text + rest.content
    if thinking or text != content:
        return Split(thinking, text)
    # The prompt may have opened the block for a model whose name does not show it. Then the text
    # before the marker is reasoning, unless the answer only talks about the marker.
    before, marker, after = content.partition(_CLOSE)
    if not marker or _OPEN in before or before.endswith(tuple(_QUOTING_CHARACTERS)):
        return Split("", content)
    if after.startswith(("`", '"', "'")):
        return Split("", content)
    return Split(before.strip(), after.lstrip())


class ReasoningSplitter:
    """Separates the reasoning before an answer, piece by piece.

    Only blocks before the answer are reasoning: a later marker is something the answer talks about.
    White space around both is dropped if there is reasoning. Blocks are joined by a blank line.
    """

    def __init__(self, *, in_reasoning: bool = False) -> None:
        self.is_decided = False  # whether the answer has begun, to which all further text belongs
        self._starts_in_reasoning = in_reasoning
        # Text returned as reasoning that no marker has confirmed yet; None if there can be none.
        self._unmarked: list[str] | None = None
        self._channels: ChannelSplitter | None = None  # once the text begins a channel
        self._blanks: list[str] = []  # white space that is held back
        self._marker = ""  # what may be the beginning of a marker, also held back
        self._in_block = False
        self._has_block = False
        self._separator = ""  # between the reasoning of two blocks
        self._block_has_text = False

    def feed(self, text: str) -> Split:
        """Return what is decided now; text that may be part of a marker is held back."""
        if (split := self._split_channels(text)) is not None:
            return split
        text, self._marker = self._marker + text, ""
        reasoning: list[str] = []
        position = 0
        while not self.is_decided and self._channels is None and position < len(text):
            position = (
                self._split_thought(text, position, reasoning)
                if self._in_block
                else self._match_opening(text, position)
            )
        if position < len(text) and not self.is_decided:
            return self._split_channels(self._take_held_back() + text[position:]) or Split("", "")
        if self._unmarked is not None:
            self._unmarked += reasoning
        content = self._take_held_back() + text[position:] if self.is_decided else ""
        return Split("".join(reasoning), content)

    def flush(self) -> Split:
        """Return what was held back, at the end of the text."""
        if self._channels is not None:
            return Split(*self._channels.flush())
        if self._in_block:
            reasoning = self._separate_blocks(self._take_held_back())
            if self._unmarked is not None:
                self._unmarked.append(reasoning)
            return Split(reasoning, "")
        return Split("", "" if self._has_block and not self._marker else self._take_held_back())

    def _split_channels(self, text: str) -> Split | None:
        return None if self._channels is None else Split(*self._channels.feed(text))

    @property
    def unmarked(self) -> str:
        """Text that was returned as reasoning, though no marker has confirmed it."""
        return "".join(self._unmarked or ())

    def expect_markers(self) -> None:
        """Do not assume that the text begins in a block: the service separates reasoning itself."""
        self._starts_in_reasoning = False

    def _match_opening(self, text: str, position: int) -> int:
        """Look for the beginning of a block; return the position where that search ended."""
        start = _skip_blanks(text, position)
        self._blanks.append(text[position:start])
        if text.startswith(_OPEN, start):
            self._enter_block()
            return start + len(_OPEN)
        if text.startswith(OPENINGS, start):
            self._blanks.clear()
            self._channels = ChannelSplitter()
            return start
        if text[start : start + 1] in {"", "<"} and any(
            len(text) - start < len(opening) and opening.startswith(text[start:])
            for opening in _STARTS
        ):
            self._marker = text[start:]
            return len(text)
        if self._starts_in_reasoning:
            self._enter_block()
            self._unmarked = []
            return start
        self.is_decided = True
        if self._has_block:
            self._blanks.clear()
        return start

    def _enter_block(self) -> None:
        self._in_block = self._has_block = True
        self._block_has_text = self._starts_in_reasoning = False
        self._blanks.clear()

    def _split_thought(self, text: str, position: int, reasoning: list[str]) -> int:
        """Move the decided reasoning to `reasoning`; return the position where it ends."""
        if not self._block_has_text:
            position = _skip_blanks(text, position)
        close = end = text.find(_CLOSE, position)
        if close < 0:
            tail = text[position:][-len(_CLOSE) :]
            end = len(text) - max(
                length for length in range(len(_CLOSE)) if tail.endswith(_CLOSE[:length])
            )
        # White space waits for the text after it: before the closing marker it is dropped.
        if thought := text[position:end].rstrip():
            reasoning.append(self._separate_blocks("".join((*self._blanks, thought))))
            self._blanks.clear()
        self._blanks.append(text[position + len(thought) : end])
        if close < 0:
            self._marker = text[end:]
            return len(text)
        self._in_block = False
        self._unmarked = None
        self._blanks.clear()
        return close + len(_CLOSE)

    def _separate_blocks(self, thought: str) -> str:
        if not thought or self._block_has_text:
            return thought
        self._block_has_text = True
        between, self._separator = self._separator, "\n\n"
        return between + thought

    def _take_held_back(self) -> str:
        text = "".join((*self._blanks, self._marker))
        self._blanks.clear()
        self._marker = ""
        return text


class ChannelSplitter:
    """Separates the reasoning of an answer in channels, piece by piece."""

    def __init__(self) -> None:
        self._state: _State = "between"
        self._pending = ""
        self._header = ""
        self._is_call = False
        self._has_reasoned = False
        self._reasoning: list[str] = []
        self._content: list[str] = []

    def feed(self, text: str) -> tuple[str, str]:
        """Return the reasoning and the answer that are decided now."""
        text = self._pending + text
        position = 0
        while match := _MARKER.search(text, position):
            self._add_text(text[position : match.start()])
            self._handle_marker(match[1], match[0])
            position = match.end()
        # Hold back what may be the beginning of a marker.
        end = text.rfind("<", max(position, len(text) - _MAX_MARKER_LENGTH))
        if end < 0 or not any(marker.startswith(text[end:]) for marker in _MARKERS):
            end = len(text)
        self._add_text(text[position:end])
        self._pending = text[end:]
        return self._drain()

    def flush(self) -> tuple[str, str]:
        """Return what was held back, at the end of the text."""
        self._add_text(self._pending)
        self._pending = ""
        if self._state == "header":
            self._content.append(self._header)
            self._header = ""
        return self._drain()

    def _drain(self) -> tuple[str, str]:
        split = "".join(self._reasoning), "".join(self._content)
        self._reasoning.clear()
        self._content.clear()
        return split

    def _add_text(self, text: str) -> None:
        if self._state == "reasoning":
            self._reasoning.append(text)
        elif self._state == "header":
            self._header += text
            if len(self._header) > MAX_HEADER:
                self._content.append(self._header)
                self._state, self._header = "content", ""
        elif self._state == "content" or text.strip():
            self._content.append(text)

    def _handle_marker(self, name: str, marker: str) -> None:
        match name:
            case "message" if self._state == "header":
                header, self._header = self._header + marker, ""
                self._is_call = _RECIPIENT.search(header) is not None
                self._state = "content"
                if self._is_call:  # left in the text, where ToolCallParser finds it
                    self._content.append(header)
                elif "<|channel|>analysis" in header:
                    self._state = "reasoning"
                    if self._has_reasoned:
                        self._reasoning.append("\n\n")
                    self._has_reasoned = True
            case "start" | "channel" | "constrain" | "message":
                self._header = self._header + marker if self._state == "header" else marker
                self._state = "header"
            case _:
                if self._is_call:
                    self._content.append(marker)
                self._state, self._is_call = "between", False


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position
