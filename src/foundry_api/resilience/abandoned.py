"""The prompts that a service still reads, though the calls that sent them have ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AbandonedPrompt", "AbandonedPrompts"]


@dataclass(frozen=True, slots=True, eq=False)
class AbandonedPrompt:
    """A prompt that is being read for nobody.

    Attributes:
        tokens: Its length; None if it cannot be estimated.
        remaining_s: Seconds of reading that were left when it was abandoned; None as above.
        ends_at: When it will have been read, on the limiter's clock; None as above.
    """

    tokens: int | None
    remaining_s: float | None
    ends_at: float | None


class AbandonedPrompts:
    """The abandoned prompts of one service."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._prompts: set[AbandonedPrompt] = set()

    def __len__(self) -> int:
        return len(self._prompts)

    def add(self, tokens: int | None, remaining_s: float | None) -> AbandonedPrompt:
        """Add a prompt of `tokens` tokens, whose reading ends in `remaining_s` seconds."""
        ends_at = None if remaining_s is None else self._monotonic() + remaining_s
        prompt = AbandonedPrompt(tokens, remaining_s, ends_at)
        self._prompts.add(prompt)
        return prompt

    def discard(self, prompt: AbandonedPrompt) -> None:
        self._prompts.discard(prompt)

    def clear(self) -> None:
        self._prompts.clear()

    @property
    def remaining_s(self) -> float | None:
        """Seconds until all have been read; None if one of them cannot be estimated."""
        ends_at = [prompt.ends_at for prompt in self._prompts]
        known = [end for end in ends_at if end is not None]
        if not known or len(known) < len(ends_at):
            return None
        return max(0.0, max(known) - self._monotonic())

    def describe(self) -> str:
        """Return a clause for errors: what the engine reads, and for how long. Empty for none."""
        if not self._prompts:
            return ""
        tokens = [prompt.tokens for prompt in self._prompts]
        known = [count for count in tokens if count is not None]
        size = f" of about {sum(known):,} tokens" if len(known) == len(tokens) else ""
        left = (
            f", for about {remaining_s:.0f} s"
            if (remaining_s := self.remaining_s or 0.0) >= 1
            else ""
        )
        what = "an abandoned prompt" if len(tokens) == 1 else f"{len(tokens)} abandoned prompts"
        return f"the engine is still reading {what}{size}{left}"
