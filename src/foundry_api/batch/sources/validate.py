"""The whole input is looked at before anything runs."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.errors import BatchInputInvalid, InvalidRequest
from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.batch.sources.base import Source
    from foundry_api.batch.types import BatchRequest, Line

__all__ = ["CheckProgress", "CheckReport", "Names", "Problem", "check"]


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


MAX_PROBLEMS = 100
MAX_DUPLICATES = 100_000
"""Beyond that, the names are no names, and a list of them would be as long as the input."""

LINES_BETWEEN_REPORTS = 1000


class Problem(Result, msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a line.

    Attributes:
        index: The line's.
        place: Where it is, such as `prompts.jsonl line 17`.
        message: What is wrong, with the place.
        field: The member at fault, if it is known.
        custom_id: The request's name, if it has one.
    """

    index: int
    place: str
    message: str
    field: str | None
    custom_id: str | None


class CheckReport(Result, msgspec.Struct, frozen=True, kw_only=True):
    """What an input holds.

    Attributes:
        lines: Requests, bad lines included.
        bad: Lines that cannot be asked, or that have the name of an earlier one.
        models: Requests by the model that they name; `""` has those that name none.
        urls: Requests by their route.
        problems: What is wrong with which line, the first ones.
        duplicates: The indexes of the lines that have the name of an earlier one.
    """

    lines: int
    bad: int
    models: dict[str, int]
    urls: dict[str, int]
    problems: tuple[Problem, ...]
    duplicates: frozenset[int]


class CheckProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a check is.

    Attributes:
        lines: Looked at.
        bad: Of them, those that cannot be asked.
        position_bytes: How much of the file was read.
        size_bytes: How large the file is; None if nobody knows.
    """

    lines: int
    bad: int
    position_bytes: int
    size_bytes: int | None

    @property
    def fraction(self) -> float | None:
        """Of the file, how much was read; None if nobody knows."""
        if not self.size_bytes:
            return None
        return min(1.0, self.position_bytes / self.size_bytes)


def check(
    source: Source, *, tell: Callable[[CheckProgress], object] = lambda _: None
) -> CheckReport:
    """Look at every line of an input. Blocks; memory stays flat.

    Args:
        source: The input, which is read from its beginning, and once more where names seem to come
            twice.
        tell: Told now and then how far it is. What it raises ends the check.

    Raises:
        BatchInputInvalid: The file cannot be read to its end, or only once; or its names are no
            names.
    """
    if not source.rereadable:
        raise BatchInputInvalid(
            f"{source.name} can be read only once, so it cannot be checked first",
            hint="Write it to a file, and give that; or give --no-check.",
        )
    look = _Look(source)
    size_bytes = source.size_bytes
    with source.reading() as reading, reading.told():
        for line in source.lines_of(reading):
            look.at(line)
            if look.lines % LINES_BETWEEN_REPORTS == 0:
                tell(
                    CheckProgress(
                        lines=look.lines,
                        bad=look.bad,
                        position_bytes=reading.position_bytes,
                        size_bytes=size_bytes,
                    )
                )
    look.compare_names()
    return look.report()


class _Look:
    """What was seen of an input so far."""

    def __init__(self, source: Source) -> None:
        self.lines = 0
        self.bad = 0
        self._source = source
        self._names = Names()
        self._models: Counter[str] = Counter()
        self._urls: Counter[str] = Counter()
        self._problems: list[Problem] = []
        self._duplicates: set[int] = set()

    def at(self, line: Line) -> None:
        """Look at the next line."""
        self.lines += 1
        try:
            request = self._source.request(line)
        except InvalidRequest as error:
            name = self._source.custom_id(line)
            self._names.add(name)
            self._note(line, error.message, error.field, name)
        else:
            self._names.add(request.custom_id)
            self._count(request, 1)

    def compare_names(self) -> None:
        """Look once more at the lines whose names seem to come twice.

        A name that a bad line has is taken, too: both lines would be in the results.
        """
        suspects = self._names.suspects()
        if suspects.count > MAX_DUPLICATES:
            raise BatchInputInvalid(
                f"{suspects.count} lines of {self._source.name} have the custom_id of another one",
                field="custom_id",
                hint="Give each its own; a column `custom_id` or `id` is taken for that.",
            )
        if suspects:
            self._look_again(suspects)

    def report(self) -> CheckReport:
        """What was seen."""
        self._problems.sort(key=lambda problem: problem.index)
        return CheckReport(
            lines=self.lines,
            bad=self.bad,
            models={model: count for model, count in self._models.items() if count},
            urls={url: count for url, count in self._urls.items() if count},
            problems=tuple(self._problems[:MAX_PROBLEMS]),
            duplicates=frozenset(self._duplicates),
        )

    def _look_again(self, suspects: Suspects) -> None:
        first: dict[str, int] = {}
        for line in self._source.lines():
            if line.index not in suspects:
                continue
            name = self._source.custom_id(line)
            if name is None:
                continue
            number = first.setdefault(name, line.number)
            if number != line.number:
                self._duplicate(line, name, f"{self._source.unit} {number}")

    def _duplicate(self, line: Line, name: str, first: str) -> None:
        self._duplicates.add(line.index)
        try:
            request = self._source.request(line)
        except InvalidRequest:
            return  # it was counted as a bad line
        self._count(request, -1)
        told = f"{self._source.place(line)}: custom_id {name!r} is that of {first} already"
        self._note(line, told, "custom_id", name)

    def _note(self, line: Line, message: str, field: str | None, name: str | None) -> None:
        self.bad += 1
        if len(self._problems) < 2 * MAX_PROBLEMS:
            place = self._source.place(line)
            self._problems.append(
                Problem(index=line.index, place=place, message=message, field=field, custom_id=name)
            )

    def _count(self, request: BatchRequest, times: int) -> None:
        self._models[request.body.get("model", "")] += times
        self._urls[request.url] += times
