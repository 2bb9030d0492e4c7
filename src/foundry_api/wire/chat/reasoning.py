"""Reasoning that stands in the text between `<think>` and `</think>`, ahead of the answer.

2.1 sends it apart, as `reasoning_content`; the generations before leave it in the text
(foundry-local-service.md, 1D), where a marker may be split over several pieces. Only blocks ahead
of the answer are reasoning: further on the markers are what the answer is about.

Some models' chat templates open the block in the prompt, so that the answer has only `</think>`.
Those that do so by their name are taken to be reasoning from their first word on; of others it is
known at the end: `split_reasoning` corrects a complete answer, a stream stays as it is.
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


OPENINGS: Final = ("<|channel|>", "<|start|>assistant")
"""What such an answer begins with."""

MAX_HEADER: Final = 400

_MARKER: Final = re.compile(r"<\|(start|channel|constrain|message|end|call|return)\|>")
_MARKERS: Final = (
    *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"),
    "<|return|>",
)
_MAX_MARKER_LENGTH: Final = max(map(len, _MARKERS))
_RECIPIENT: Final = re.compile(r"\bto=")

_State = Literal["between", "header", "reasoning", "content"]


class ChannelSplitter:
    """Tells the reasoning of an answer in channels from the answer, piece by piece."""

    def __init__(self) -> None:
        self._state: _State = "between"
        self._pending = ""
        self._header = ""
        self._is_call = False
        self._has_reasoned = False
        self._reasoning: list[str] = []
        self._content: list[str] = []

    def feed(self, text: str) -> tuple[str, str]:
        """The reasoning and the answer that are clear now. Part of a marker is held back."""
        text = self._pending + text
        position = 0
        while match := _MARKER.search(text, position):
            self._add_text(text[position : match.start()])
            self._handle_marker(match[1], match[0])
            position = match.end()
        end = max(
            position, len(text) - _partial_marker_length(text[position:][-_MAX_MARKER_LENGTH:])
        )
        self._add_text(text[position:end])
        self._pending = text[end:]
        return self._drain()

    def flush(self) -> tuple[str, str]:
        """What was held back, at the end of the text."""
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
                self._start_message(self._header + marker)
                self._header = ""
            case "start" | "channel" | "constrain" | "message":
                self._header = self._header + marker if self._state == "header" else marker
                self._state = "header"
            case _:
                if self._is_call:
                    self._content.append(marker)
                self._state, self._is_call = "between", False

    def _start_message(self, header: str) -> None:
        self._is_call = _RECIPIENT.search(header) is not None
        if self._is_call:
            self._state = "content"
            self._content.append(header)
        elif "<|channel|>analysis" in header:
            self._state = "reasoning"
            if self._has_reasoned:
                self._reasoning.append("\n\n")
            self._has_reasoned = True
        else:
            self._state = "content"


def _partial_marker_length(text: str) -> int:
    """How many characters at the end of a text may begin a marker."""
    position = text.rfind("<")
    tail = text[position:] if position >= 0 else ""
    return len(tail) if tail and any(marker.startswith(tail) for marker in _MARKERS) else 0


_OPEN = "<think>"
_CLOSE = "</think>"
_BLANKS = re.compile(r"\s*")
_STARTS = (_OPEN, *OPENINGS)
_OPENS_IN_PROMPT = re.compile(r"deepseek-?r1|\br1-distill|\bqwq\b|[-_]thinking\b", re.IGNORECASE)


def opens_block_in_prompt(model_id: str) -> bool:
    """Whether a model's template opens the block: DeepSeek-R1, QwQ, and Qwen3's thinking ones."""
    return _OPENS_IN_PROMPT.search(model_id) is not None


class Split(NamedTuple):
    """What a piece of text holds of either kind."""

    reasoning: str
    content: str


class ReasoningSplitter:
    """Tells the reasoning at the beginning of an answer from the answer.

    White space around either is dropped where there is reasoning, and kept where there is none. A
    blank line stands between two blocks.

    Args:
        opened: Whether the prompt opened a block, so that the text begins within it.

    Attributes:
        is_decided: Whether the answer itself has begun, so that the rest of the text is all of it.
    """

    def __init__(self, *, in_reasoning: bool = False) -> None:
        self.is_decided = False
        self._starts_in_reasoning = in_reasoning
        self._unmarked: list[str] | None = None
        self._channels: ChannelSplitter | None = None
        self._blanks: list[str] = []
        self._marker = ""
        self._in_block = False
        self._has_block = False
        self._separator = ""
        self._block_has_text = False

    def feed(self, text: str) -> Split:
        """What is clear now. Text that may be part of a marker is held back."""
        if (split := self._split_channels(text)) is not None:
            return split
        text, self._marker = self._marker + text, ""
        reasoning: list[str] = []
        position = 0
        while not self._is_settled and position < len(text):
            position = (
                self._split_thought(text, position, reasoning)
                if self._in_block
                else self._match_opening(text, position)
            )
        if position < len(text) and not self.is_decided:
            return self._split_channels(self._release() + text[position:]) or Split("", "")
        if self._unmarked is not None:
            self._unmarked += reasoning
        content = self._release() + text[position:] if self.is_decided else ""
        return Split("".join(reasoning), content)

    def flush(self) -> Split:
        """What was held back, at the end of the text."""
        if self._channels is not None:
            return Split(*self._channels.flush())
        if self._in_block:
            reasoning = self._separate_blocks(self._release())
            if self._unmarked is not None:
                self._unmarked.append(reasoning)
            return Split(reasoning, "")
        return Split("", "" if self._has_block and not self._marker else self._release())

    def _split_channels(self, text: str) -> Split | None:
        return None if self._channels is None else Split(*self._channels.feed(text))

    @property
    def _is_settled(self) -> bool:
        """Whether it is clear how the rest of the text is told apart."""
        return self.is_decided or self._channels is not None

    @property
    def unmarked(self) -> str:
        """What was taken for reasoning though no marker ever said that it is."""
        return "".join(self._unmarked or ())

    def expect_markers(self) -> None:
        """The service tells reasoning apart itself: the prompt opened no block for this text."""
        self._starts_in_reasoning = False

    def _match_opening(self, text: str, position: int) -> int:
        """Look whether a block begins here; where that look ends."""
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
        """Take the reasoning that is clear; where it ends.

        Blanks wait for what follows them, since those ahead of the closing marker are dropped.
        """
        if not self._block_has_text:
            position = _skip_blanks(text, position)
        close = text.find(_CLOSE, position)
        end = (
            close
            if close >= 0
            else len(text) - _partial_close_length(text[position:][-len(_CLOSE) :])
        )
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

    def _release(self) -> str:
        text = "".join((*self._blanks, self._marker))
        self._blanks.clear()
        self._marker = ""
        return text


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def _partial_close_length(text: str) -> int:
    """How many characters at the end of a text may begin the marker that closes a block."""
    return max(length for length in range(len(_CLOSE)) if text.endswith(_CLOSE[:length]))


_QUOTING_CHARACTERS = " \t`\"'([{<"
"""What stands ahead of a marker that an answer speaks of, and not behind reasoning."""


def split_reasoning(reasoning: str, content: str) -> Split:
    """Reasoning and answer of a whole text.

    Models whose chat template opens the block in the prompt, such as DeepSeek-R1's distills, write
    only `</think>`: what stands ahead of it is reasoning, unless the answer speaks of the marker.

    Args:
        reasoning: What was told apart before; with any, the text is all answer.
        content: The text.
    """
    if reasoning:
        # An answer was taken for reasoning while it came, for its model's name, and is both now.
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
    before, marker, after = content.partition(_CLOSE)
    if not marker or _OPEN in before or before.endswith(tuple(_QUOTING_CHARACTERS)):
        return Split("", content)
    if after.startswith(("`", '"', "'")):
        return Split("", content)
    return Split(before.strip(), after.lstrip())
