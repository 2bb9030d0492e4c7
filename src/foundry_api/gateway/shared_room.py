"""Room in memory that keys share: the key that uses the most of it loses its oldest entry first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["SharedRoom"]

_N = TypeVar("_N")


class _Share(Generic[_N]):
    def __init__(self) -> None:
        self.sizes: OrderedDict[_N, int] = OrderedDict()
        self.bytes = 0


class SharedRoom(Generic[_N]):
    """The names and sizes of what is stored, by owner, bounded in number and in bytes.

    One list of all entries, of which the oldest goes, would let one key push out those of others.

    Args:
        max_entries: Entries of all owners.
        max_bytes: Their bytes.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._shares: dict[str | None, _Share[_N]] = {}
        self._entries = self._bytes = 0

    def __len__(self) -> int:
        return self._entries

    def add(self, owner: str | None, name: _N, size: int) -> None:
        """Add an entry, or give it a new size; it is the newest one then."""
        self.discard(owner, name)
        share = self._shares.setdefault(owner, _Share())
        share.sizes[name] = size
        share.bytes += size
        self._entries += 1
        self._bytes += size

    def use(self, owner: str | None, name: _N) -> None:
        """Make an entry the newest one of its owner."""
        self._shares[owner].sizes.move_to_end(name)

    def discard(self, owner: str | None, name: _N) -> None:
        """Remove an entry, if it is there."""
        share = self._shares.get(owner)
        if share is None or name not in share.sizes:
            return
        size = share.sizes.pop(name)
        share.bytes -= size
        self._entries -= 1
        self._bytes -= size
        if not share.sizes:
            del self._shares[owner]

    def take_surplus(self) -> _N | None:
        """Remove one entry if there are too many, and return its name."""
        if self._entries > self._max_entries:
            owner = max(self._shares, key=lambda owner: len(self._shares[owner].sizes))
        elif self._bytes > self._max_bytes:
            owner = max(self._shares, key=lambda owner: self._shares[owner].bytes)
        else:
            return None
        name = next(iter(self._shares[owner].sizes))
        self.discard(owner, name)
        return name
