"""Which of several choices an answer names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.structured.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["begins_like", "chosen"]

_AROUND = " \t\r\n\"'`*_.!"
"""What models like to put around a word."""


def chosen(text: str, choices: Sequence[str]) -> str:
    """The choice that an answer names, whatever its case, quotes, emphasis and full stop.

    Raises:
        Refused: It names none, or more than one.
    """
    if (bare := text.strip()) in choices:
        return bare
    plain = _plain(bare)
    alike = [choice for choice in choices if _plain(choice) == plain]
    if len(alike) != 1:
        said = f"it is {bare[:100]!r}" if bare else "it is empty"
        raise Refused(f"the answer has to be one of {', '.join(map(repr, choices))}, but {said}")
    return alike[0]


def begins_like(text: str, choice: str) -> bool:
    """Whether a text can be the beginning of a choice: also one with quotes and in another case."""
    return choice.casefold().startswith(text.lstrip(_AROUND).casefold())


def _plain(text: str) -> str:
    return text.strip(_AROUND).casefold()
