"""The channels in which gpt-oss answers, where an engine leaves them in the text.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>

What it says in `analysis` is reasoning. A message to a function stays in the text as it is: it is
for `call_formats` to read, where tools were offered.
"""

from __future__ import annotations

import re
from typing import Final, Literal

__all__ = ["OPENINGS", "ChannelSplitter"]

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
        end = max(at, len(text) - _open_end(text[at:][-_LONGEST:]))
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


def _open_end(text: str) -> int:
    """How many characters at the end of a text may begin a marker."""
    at = text.rfind("<")
    tail = text[at:] if at >= 0 else ""
    return len(tail) if tail and any(marker.startswith(tail) for marker in _MARKERS) else 0
