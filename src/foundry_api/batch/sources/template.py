"""A prompt with places for a row's values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from foundry_api.batch.bodies import nearest
from foundry_api.errors import BatchInputInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

__all__ = ["Template"]

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ESCAPED = {"{{": "{", "}}": "}"}
_BRACES = "A brace that is part of the prompt is written twice: {{ and }}."


class Template:
    """A prompt that is made of a row.

    Args:
        pieces: Texts, and the numbers of the values that stand between them.
    """

    def __init__(self, pieces: Sequence[str | int]) -> None:
        self.places = tuple(piece for piece in pieces if isinstance(piece, int))
        self._pieces = tuple(pieces)

    @classmethod
    def of(cls, text: str, names: Mapping[str, int], what: str) -> Self:
        """Read a template.

        Args:
            text: With `{name}` where a value comes, and `{{` for a brace.
            names: Number of each value by its name.
            what: Whose values they are, for messages.

        Raises:
            BatchInputInvalid: It names a value that there is not, or none.
        """
        pieces: list[str | int] = []
        end = 0
        for found in _PIECE.finditer(text):
            pieces += [text[end : found.start()], _piece(found, names, what)]
            end = found.end()
        pieces.append(text[end:])
        if not any(isinstance(piece, int) for piece in pieces):
            raise _wrong("it has no {name}, so that all prompts would be the same", names, what)
        return cls([piece for piece in pieces if piece != ""])

    def filled(self, values: Sequence[str]) -> str:
        """The prompt of a row."""
        return "".join(piece if isinstance(piece, str) else values[piece] for piece in self._pieces)


def _piece(found: re.Match[str], names: Mapping[str, int], what: str) -> str | int:
    text, name = found[0], found[1]
    if text in _ESCAPED:
        return _ESCAPED[text]
    if name is None:
        raise BatchInputInvalid(
            f"the template has a lone {text} at position {found.start() + 1}",
            field="template",
            hint=_BRACES,
        )
    if name not in names:
        raise _wrong(f"there is no {text}{nearest(name, names)}", names, what)
    return names[name]


def _wrong(why: str, names: Mapping[str, int], what: str) -> BatchInputInvalid:
    known = ", ".join(f"{{{name}}}" for name in names)
    return BatchInputInvalid(
        f"the template does not fit: {why}", field="template", hint=f"{what} has {known}. {_BRACES}"
    )
