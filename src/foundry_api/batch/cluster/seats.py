"""Which actor works with what: one engine on a node, or one actor for an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.batch.cluster.told import Seat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.batch.cluster.told import Who

__all__ = ["Seats"]


class Seats:
    """Given to actors as they come, taken back when they come again as another process.

    When a node dies, Ray starts its actor anew on any other one. There it would be a second engine
    with the same models in the same memory, so it waits until that node has none.

    Args:
        urls: The services' addresses, one for each actor; none where each has an engine of its own.
    """

    def __init__(self, urls: Sequence[str] = ()) -> None:
        self._urls = tuple(urls)
        self._holders: dict[str, Who] = {}

    def ask(self, who: Who) -> Seat | None:
        """A seat for an actor; None while there is none. Whoever asks again has the same."""
        for name in self._urls or (who.node,):
            holder = self._holders.setdefault(name, who)
            if holder == who:
                return Seat(name, name) if self._urls else Seat(who.host)
        return None

    def leave(self, actor: str) -> None:
        """An actor has no seat any more, if it had one."""
        self._holders = {name: who for name, who in self._holders.items() if who.actor != actor}
