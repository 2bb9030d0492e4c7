"""Names that come twice among millions, found in little memory."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Names"]

_PARTS = 64
_NAMELESS = 0


class Names:
    """The names of a batch's requests, in the order of the requests: 8 bytes of each."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, name: str | None) -> None:
        """The next request's name, if it has one."""
        self._digests.append(_NAMELESS if name is None else _digest(name))

    def suspects(self) -> Suspects:
        """The requests that seem to have the name of another one.

        Two names have the same 64 bits once in trillions of pairs, so they are to be looked at.
        """
        twice: set[int] = set()
        for part in self._parts():
            last = _NAMELESS
            for digest in sorted(part):
                if digest == last != _NAMELESS:
                    twice.add(digest)
                last = digest
        return Suspects(self._digests, frozenset(twice))

    def _parts(self) -> Iterator[array[int]]:
        """All digests in parts that can be sorted one after another: equal ones are in one."""
        parts = [array("Q") for _ in range(_PARTS)]
        for digest in self._digests:
            parts[digest % _PARTS].append(digest)
        while parts:
            yield parts.pop()


class Suspects:
    """Requests of which several may have the same name.

    Args:
        digests: Of the names, in the order of the requests.
        twice: Those that come more than once.
    """

    def __init__(self, digests: array[int], twice: frozenset[int]) -> None:
        self._digests = digests
        self._twice = twice

    def __bool__(self) -> bool:
        return bool(self._twice)

    def __contains__(self, index: int) -> bool:
        return self._digests[index] in self._twice

    @property
    def count(self) -> int:
        """How many there are, without the first one of each name."""
        if not self._twice:
            return 0
        return sum(map(self._twice.__contains__, self._digests)) - len(self._twice)


def _digest(name: str) -> int:
    # Half a surrogate pair is refused elsewhere; here it only has to be told from other names.
    digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
