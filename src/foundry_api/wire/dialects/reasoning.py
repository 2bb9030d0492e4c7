"""Reasoning that stands in the text between `<think>` and `</think>`, ahead of the answer.

2.1 sends it apart, as `reasoning_content`; the generations before leave it in the text
(foundry-local-service.md, 1D), where a marker may be split over several pieces. Only blocks ahead
of the answer are reasoning: further on the markers are what the answer is about.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Split", "ThinkSplitter"]

_OPEN = "<think>"
_CLOSE = "</think>"


class Split(NamedTuple):
    """What a piece of text holds of either kind."""

    reasoning: str
    content: str


class ThinkSplitter:
    """Tells the reasoning at the beginning of an answer from the answer.

    White space around either is dropped where there is reasoning, and kept where there is none. A
    blank line stands between two blocks.

    Attributes:
        decided: Whether the answer itself has begun, so that the rest of the text is all of it.
    """

    def __init__(self) -> None:
        self.decided = False
        self._held = ""
        self._inside = False
        self._found = False
        self._between = ""
        self._begun = False

    def feed(self, text: str) -> Split:
        """What is clear now. Text that may be part of a marker is held back."""
        self._held += text
        reasoning = ""
        while not self.decided:
            if self._inside:
                part, done = self._thought()
                reasoning += part
            else:
                done = self._opening()
            if not done:
                return Split(reasoning, "")
        return Split(reasoning, self._released())

    def flush(self) -> Split:
        """What was held back, at the end of the text."""
        if self._inside:
            return Split(self._told(self._released()), "")
        return Split("", "" if self._found and not self._held.strip() else self._released())

    def _opening(self) -> bool:
        """Whether it is clear if a block begins here."""
        begun = self._held.lstrip()
        if len(begun) < len(_OPEN) and _OPEN.startswith(begun):
            return False
        if begun.startswith(_OPEN):
            self._inside = self._found = True
            self._begun, self._held = False, begun[len(_OPEN) :]
        else:
            self.decided = True
            self._held = begun if self._found else self._held
        return True

    def _thought(self) -> tuple[str, bool]:
        """The reasoning that is clear, and whether its block ended."""
        if not self._begun:
            self._held = self._held.lstrip()
        thought, mark, rest = self._held.partition(_CLOSE)
        if mark:
            self._inside, self._held = False, rest
            return self._told(thought.rstrip()), True
        clear = len(thought[: len(thought) - _open_end(thought)].rstrip())
        self._held = thought[clear:]
        return self._told(thought[:clear]), False

    def _told(self, thought: str) -> str:
        if not thought or self._begun:
            return thought
        self._begun = True
        between, self._between = self._between, "\n\n"
        return between + thought

    def _released(self) -> str:
        held, self._held = self._held, ""
        return held


def _open_end(text: str) -> int:
    """How many characters at the end of a text may begin the marker that closes a block."""
    return max(length for length in range(len(_CLOSE)) if text.endswith(_CLOSE[:length]))
