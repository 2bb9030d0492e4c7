"""Reasoning that stands in the text between `<think>` and `</think>`, ahead of the answer.

2.1 sends it apart, as `reasoning_content`; the generations before leave it in the text
(foundry-local-service.md, 1D), where a marker may be split over several pieces. Only blocks ahead
of the answer are reasoning: further on the markers are what the answer is about.

Some models' chat templates open the block in the prompt, so that the answer has only `</think>`.
Those that do so by their name are taken to be reasoning from their first word on; of others it is
known at the end, so that a whole answer is put right (`attributed`), and a stream is as it came.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

__all__ = [
    "OPENINGS",
    "ChannelSplitter",
    "Split",
    "ThinkSplitter",
    "attributed",
    "opens_block_in_prompt",
]


OPENINGS: Final = ("<|channel|>", "<|start|>assistant")
"""What such an answer begins with."""

MAX_HEADER: Final = 400

_MARKER: Final = re.compile(r"<\|(start|channel|constrain|message|end|call|return)\|>")
_MARKERS: Final = (
    *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"),
    "<|return|>",
)
_LONGEST: Final = max(map(len, _MARKERS))
_RECIPIENT: Final = re.compile(r"\bto=")

_State = Literal["between", "header", "reasoning", "content"]


class ChannelSplitter:
    """Tells the reasoning of an answer in channels from the answer, piece by piece."""

    def __init__(self) -> None:
        self._state: _State = "between"
        self._held = ""
        self._header = ""
        self._is_call = False
        self._has_reasoned = False
        self._reasoning: list[str] = []
        self._content: list[str] = []

    def feed(self, text: str) -> tuple[str, str]:
        """The reasoning and the answer that are clear now. Part of a marker is held back."""
        text = self._held + text
        at = 0
        while match := _MARKER.search(text, at):
            self._take(text[at : match.start()])
            self._mark(match[1], match[0])
            at = match.end()
        end = max(at, len(text) - _open_end_harmony(text[at:][-_LONGEST:]))
        self._take(text[at:end])
        self._held = text[end:]
        return self._taken()

    def flush(self) -> tuple[str, str]:
        """What was held back, at the end of the text."""
        self._take(self._held)
        self._held = ""
        if self._state == "header":
            self._content.append(self._header)
            self._header = ""
        return self._taken()

    def _taken(self) -> tuple[str, str]:
        taken = "".join(self._reasoning), "".join(self._content)
        self._reasoning.clear()
        self._content.clear()
        return taken

    def _take(self, text: str) -> None:
        if self._state == "reasoning":
            self._reasoning.append(text)
        elif self._state == "header":
            self._header += text
            if len(self._header) > MAX_HEADER:
                self._content.append(self._header)
                self._state, self._header = "content", ""
        elif self._state == "content" or text.strip():
            self._content.append(text)

    def _mark(self, name: str, marker: str) -> None:
        match name:
            case "message" if self._state == "header":
                self._begin(self._header + marker)
                self._header = ""
            case "start" | "channel" | "constrain" | "message":
                self._header = self._header + marker if self._state == "header" else marker
                self._state = "header"
            case _:
                if self._is_call:
                    self._content.append(marker)
                self._state, self._is_call = "between", False

    def _begin(self, header: str) -> None:
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


def _open_end_harmony(text: str) -> int:
    """How many characters at the end of a text may begin a marker."""
    at = text.rfind("<")
    tail = text[at:] if at >= 0 else ""
    return len(tail) if tail and any(marker.startswith(tail) for marker in _MARKERS) else 0


_OPEN = "<think>"
_CLOSE = "</think>"
_BLANKS = re.compile(r"\s*")
_STARTS = (_OPEN, *OPENINGS)
_OPENED = re.compile(r"deepseek-?r1|\br1-distill|\bqwq\b|[-_]thinking\b", re.IGNORECASE)


def opens_block_in_prompt(model_id: str) -> bool:
    """Whether a model's template opens the block: DeepSeek-R1, QwQ, and Qwen3's thinking ones."""
    return _OPENED.search(model_id) is not None


class Split(NamedTuple):
    """What a piece of text holds of either kind."""

    reasoning: str
    content: str


class ThinkSplitter:
    """Tells the reasoning at the beginning of an answer from the answer.

    White space around either is dropped where there is reasoning, and kept where there is none. A
    blank line stands between two blocks.

    Args:
        opened: Whether the prompt opened a block, so that the text begins within it.

    Attributes:
        decided: Whether the answer itself has begun, so that the rest of the text is all of it.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self.decided = False
        self._opened = opened
        self._unmarked: list[str] | None = None
        self._channels: ChannelSplitter | None = None
        self._blanks: list[str] = []
        self._marker = ""
        self._inside = False
        self._found = False
        self._between = ""
        self._begun = False

    def feed(self, text: str) -> Split:
        """What is clear now. Text that may be part of a marker is held back."""
        if (split := self._by_channel(text)) is not None:
            return split
        text, self._marker = self._marker + text, ""
        reasoning: list[str] = []
        at = 0
        while not self._ends_search and at < len(text):
            at = self._thought(text, at, reasoning) if self._inside else self._opening(text, at)
        if at < len(text) and not self.decided:
            return self._by_channel(self._released() + text[at:]) or Split("", "")
        if self._unmarked is not None:
            self._unmarked += reasoning
        content = self._released() + text[at:] if self.decided else ""
        return Split("".join(reasoning), content)

    def flush(self) -> Split:
        """What was held back, at the end of the text."""
        if self._channels is not None:
            return Split(*self._channels.flush())
        if self._inside:
            thought = self._told(self._released())
            if self._unmarked is not None:
                self._unmarked.append(thought)
            return Split(thought, "")
        return Split("", "" if self._found and not self._marker else self._released())

    def _by_channel(self, text: str) -> Split | None:
        return None if self._channels is None else Split(*self._channels.feed(text))

    @property
    def _ends_search(self) -> bool:
        """Whether it is clear how the rest of the text is told apart."""
        return self.decided or self._channels is not None

    @property
    def unmarked(self) -> str:
        """What was taken for reasoning though no marker ever said that it is."""
        return "".join(self._unmarked or ())

    def expect_markers(self) -> None:
        """The service tells reasoning apart itself: the prompt opened no block for this text."""
        self._opened = False

    def _opening(self, text: str, at: int) -> int:
        """Look whether a block begins here; where that look ends."""
        start = _past_blanks(text, at)
        self._blanks.append(text[at:start])
        if text.startswith(_OPEN, start):
            self._enter()
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
        if self._opened:
            self._enter()
            self._unmarked = []
            return start
        self.decided = True
        if self._found:
            self._blanks.clear()
        return start

    def _enter(self) -> None:
        self._inside = self._found = True
        self._begun = self._opened = False
        self._blanks.clear()

    def _thought(self, text: str, at: int, reasoning: list[str]) -> int:
        """Take the reasoning that is clear; where it ends.

        Blanks wait for what follows them, since those ahead of the closing marker are dropped.
        """
        if not self._begun:
            at = _past_blanks(text, at)
        close = text.find(_CLOSE, at)
        end = close if close >= 0 else len(text) - _open_end(text[at:][-len(_CLOSE) :])
        if thought := text[at:end].rstrip():
            reasoning.append(self._told("".join((*self._blanks, thought))))
            self._blanks.clear()
        self._blanks.append(text[at + len(thought) : end])
        if close < 0:
            self._marker = text[end:]
            return len(text)
        self._inside = False
        self._unmarked = None
        self._blanks.clear()
        return close + len(_CLOSE)

    def _told(self, thought: str) -> str:
        if not thought or self._begun:
            return thought
        self._begun = True
        between, self._between = self._between, "\n\n"
        return between + thought

    def _released(self) -> str:
        held = "".join((*self._blanks, self._marker))
        self._blanks.clear()
        self._marker = ""
        return held


def _past_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _open_end(text: str) -> int:
    """How many characters at the end of a text may begin the marker that closes a block."""
    return max(length for length in range(len(_CLOSE)) if text.endswith(_CLOSE[:length]))


_SPOKEN_OF = " \t`\"'([{<"
"""What stands ahead of a marker that an answer speaks of, and not behind reasoning."""


def attributed(reasoning: str, content: str) -> Split:
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
    splitter = ThinkSplitter()
    thought, answer = splitter.feed(content)
    if not splitter.decided:
        more = splitter.flush()
        thought, answer = thought + more.reasoning, answer + more.content
    if thought or answer != content:
        return Split(thought, answer)
    before, marker, after = content.partition(_CLOSE)
    if not marker or _OPEN in before or before.endswith(tuple(_SPOKEN_OF)):
        return Split("", content)
    if after.startswith(("`", '"', "'")):
        return Split("", content)
    return Split(before.strip(), after.lstrip())
