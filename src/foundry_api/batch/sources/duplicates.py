"""Names that come twice among millions, found in little memory."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Names"]

_PARTS = 64
_NAMELESS = 0


class Names:
    """The names of a batch's requests, in the order of the requests: 8 bytes of each."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, name: str | None) -> None:
        """The next request's name, if it has one."""
        self._hashes.append(_NAMELESS if name is None else hash(name) or 1)

    def suspects(self) -> Suspects:
        """The requests that seem to have the name of another one.

        Two names have the same 64 bits once in trillions of pairs, so they are to be looked at.
        """
        twice: set[int] = set()
        for part in self._parts():
            last = _NAMELESS
            for hash_ in sorted(part):
                if hash_ == last != _NAMELESS:
                    twice.add(hash_)
                last = hash_
        return Suspects(self._hashes, frozenset(twice))

    def _parts(self) -> Iterator[array[int]]:
        """All hashes in parts that can be sorted one after another: equal ones are in one."""
        parts = [array("q") for _ in range(_PARTS)]
        for hash_ in self._hashes:
            parts[hash_ % _PARTS].append(hash_)
        while parts:
            yield parts.pop()


class Suspects:
    """Requests of which several may have the same name.

    Args:
        hashes: Of the names, in the order of the requests.
        twice: Those that come more than once.
    """

    def __init__(self, hashes: array[int], twice: frozenset[int]) -> None:
        self._hashes = hashes
        self._twice = twice

    def __bool__(self) -> bool:
        return bool(self._twice)

    def __contains__(self, index: int) -> bool:
        return self._hashes[index] in self._twice

    @property
    def count(self) -> int:
        """How many there are, without the first one of each name."""
        if not self._twice:
            return 0
        return sum(map(self._twice.__contains__, self._hashes)) - len(self._twice)
