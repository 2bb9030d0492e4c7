"""Lines that ask the same as another one: it is asked for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.answers import renamed_line
from foundry_api.batch.sharing import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.batch.lines import Finished, Work

__all__ = ["Alike"]


class Alike:
    """Knows the lines that are on their way, and the answers that came last.

    Args:
        key_of: The same for lines that ask the same. None where every line is asked.
    """

    def __init__(self, key_of: Callable[[Work], bytes] | None) -> None:
        self._key_of = key_of
        self._answers: Kept[Finished] = Kept(lambda finished: 512 + len(finished.output))
        self._leaders: dict[bytes, int] = {}
        self._followers: dict[int, list[Work]] = {}
        self._keys: dict[int, bytes] = {}

    @property
    def waiting(self) -> int:
        """Lines that wait for the answer of another one."""
        return sum(map(len, self._followers.values()))

    def sort(self, works: Sequence[Work]) -> tuple[list[Work], list[Finished]]:
        """Those that are to be asked, and the answers of those that are known already.

        The others come with the line that they are like.
        """
        if self._key_of is None:
            return list(works), []
        asked: list[Work] = []
        known: list[Finished] = []
        for work in works:
            key = self._key_of(work)
            answer = self._answers.get(key)
            if answer is not None:
                known.append(_shared(work, answer))
            elif self._leads(work, key):
                asked.append(work)
        return asked, known

    def answered(self, finished: Finished) -> list[Finished]:
        """The lines that take this answer. A failure is not kept for later ones."""
        key = self._keys.get(finished.index)
        if key is not None and not finished.failed:
            self._answers.put(key, finished)
        return [_shared(work, finished) for work in self.lost(finished.index)]

    def lost(self, index: int) -> list[Work]:
        """The lines that waited for one that has no answer."""
        key = self._keys.pop(index, None)
        if key is not None:
            del self._leaders[key]
        return self._followers.pop(index, [])

    def _leads(self, work: Work, key: bytes) -> bool:
        index = work.line.index
        leader = self._leaders.setdefault(key, index)
        if leader == index:
            self._keys[index] = key
            return True
        self._followers.setdefault(leader, []).append(work)
        return False


def _shared(work: Work, finished: Finished) -> Finished:
    """What a line is answered that asks the same."""
    line = work.line
    told = msgspec.structs.replace(
        finished,
        index=line.index,
        digest=line.digest,
        output=renamed_line(finished.output, work.request.custom_id),
        duration_s=0.0,
        queued_s=0.0,
        time_to_first_token_s=None,
        attempts=0,
        shared=True,
    )
    return told if not finished.failed else msgspec.structs.replace(told, shared=False)
