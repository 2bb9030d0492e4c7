"""Failures that may be of every line are not told of one before another one was answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from foundry_api.errors import FoundryError

__all__ = ["IN_A_ROW", "Doubt"]

_R = TypeVar("_R")

IN_A_ROW = 10
"""So many lines without an answer between them fail of what all would fail of."""


class Doubt(Generic[_R]):
    """Holds failures back until it is clear whose they are.

    A model that nobody knows fails every line that names it, and an engine that dies of any line
    dies of all: a million lines must not be written off for that.
    """

    def __init__(self) -> None:
        self._held: list[_R] = []
        self._kind: type[FoundryError] | None = None

    def failed(self, error: FoundryError, result: _R) -> list[_R]:
        """A line failed of what might be of all. Gives the failures that are the lines' own.

        Raises:
            FoundryError: The error, if too many have failed of it in a row.
        """
        released = self.release() if self._kind not in {None, type(error)} else []
        self._kind = type(error)
        self._held.append(result)
        if len(self._held) >= IN_A_ROW:
            raise error
        return released

    def release(self) -> list[_R]:
        """Another line was answered, or there are no more: the failures were the lines' own."""
        held, self._held, self._kind = self._held, [], None
        return held
