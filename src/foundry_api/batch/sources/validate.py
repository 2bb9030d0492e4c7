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

__all__ = ["CheckProgress", "CheckReport", "IdHashes", "Problem", "check"]


_PARTS = 64
_NO_ID = 0


class IdHashes:
    """The names of a batch's requests, in the order of the requests: 8 bytes of each."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, name: str | None) -> None:
        """The next request's name, if it has one."""
        self._hashes.append(_NO_ID if name is None else hash(name) or 1)

    def find_candidates(self) -> DuplicateCandidates:
        """The requests that seem to have the name of another one.

        Two names have the same 64 bits once in trillions of pairs, so they are to be looked at.
        """
        repeated: set[int] = set()
        for part in self._iter_parts():
            last = _NO_ID
            for hash_ in sorted(part):
                if hash_ == last != _NO_ID:
                    repeated.add(hash_)
                last = hash_
        return DuplicateCandidates(self._hashes, frozenset(repeated))

    def _iter_parts(self) -> Iterator[array[int]]:
        """All hashes in parts that can be sorted one after another: equal ones are in one."""
        parts = [array("q") for _ in range(_PARTS)]
        for hash_ in self._hashes:
            parts[hash_ % _PARTS].append(hash_)
        while parts:
            yield parts.pop()


class DuplicateCandidates:
    """Requests of which several may have the same name.

    Args:
        hashes: Of the names, in the order of the requests.
        twice: Those that come more than once.
    """

    def __init__(self, hashes: array[int], repeated: frozenset[int]) -> None:
        self._hashes = hashes
        self._repeated = repeated

    def __bool__(self) -> bool:
        return bool(self._repeated)

    def __contains__(self, index: int) -> bool:
        return self._hashes[index] in self._repeated

    @property
    def count(self) -> int:
        """How many there are, without the first one of each name."""
        if not self._repeated:
            return 0
        return sum(map(self._repeated.__contains__, self._hashes)) - len(self._repeated)


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
    source: Source, *, on_progress: Callable[[CheckProgress], object] = lambda _: None
) -> CheckReport:
    """Look at every line of an input. Blocks; memory stays flat.

    Args:
        source: The input, which is read from its beginning, and once more where names seem to come
            twice.
        on_progress: Told now and then how far it is. What it raises ends the check.

    Raises:
        BatchInputInvalid: The file cannot be read to its end, or only once; or its names are no
            names.
    """
    if not source.is_seekable:
        raise BatchInputInvalid(
            f"{source.name} can be read only once, so it cannot be checked first",
            hint="Write it to a file, and give that; or give --no-check.",
        )
    checker = _InputCheck(source)
    size_bytes = source.size_bytes
    with source.open_reader() as reader, reader.translate_errors():
        for line in source.read_lines(reader):
            checker.check_line(line)
            if checker.lines % LINES_BETWEEN_REPORTS == 0:
                on_progress(
                    CheckProgress(
                        lines=checker.lines,
                        bad=checker.bad,
                        position_bytes=reader.position_bytes,
                        size_bytes=size_bytes,
                    )
                )
    checker.find_duplicates()
    return checker.make_report()


class _InputCheck:
    """What was seen of an input so far."""

    def __init__(self, source: Source) -> None:
        self.lines = 0
        self.bad = 0
        self._source = source
        self._id_hashes = IdHashes()
        self._models: Counter[str] = Counter()
        self._urls: Counter[str] = Counter()
        self._problems: list[Problem] = []
        self._duplicates: set[int] = set()

    def check_line(self, line: Line) -> None:
        """Look at the next line."""
        self.lines += 1
        try:
            request = self._source.parse_request(line)
        except InvalidRequest as error:
            name = self._source.get_custom_id(line)
            self._id_hashes.add(name)
            self._record_problem(line, error.message, error.field, name)
        else:
            self._id_hashes.add(request.custom_id)
            self._count_request(request, 1)

    def find_duplicates(self) -> None:
        """Look once more at the lines whose names seem to come twice.

        A name that a bad line has is taken, too: both lines would be in the results.
        """
        candidates = self._id_hashes.find_candidates()
        if candidates.count > MAX_DUPLICATES:
            raise BatchInputInvalid(
                f"{candidates.count} lines of {self._source.name} have the custom_id of "
                "another one",
                field="custom_id",
                hint="Give each its own; a column `custom_id` or `id` is taken for that.",
            )
        if candidates:
            self._confirm_duplicates(candidates)

    def make_report(self) -> CheckReport:
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

    def _confirm_duplicates(self, candidates: DuplicateCandidates) -> None:
        first: dict[str, int] = {}
        for line in self._source.iter_lines():
            if line.index not in candidates:
                continue
            name = self._source.get_custom_id(line)
            if name is None:
                continue
            number = first.setdefault(name, line.number)
            if number != line.number:
                self._record_duplicate(line, name, f"{self._source.unit} {number}")

    def _record_duplicate(self, line: Line, name: str, first: str) -> None:
        self._duplicates.add(line.index)
        try:
            request = self._source.parse_request(line)
        except InvalidRequest:
            return  # it was counted as a bad line
        self._count_request(request, -1)
        message = (
            f"{self._source.format_place(line)}: custom_id {name!r} is that of {first} already"
        )
        self._record_problem(line, message, "custom_id", name)

    def _record_problem(
        self, line: Line, message: str, field: str | None, name: str | None
    ) -> None:
        self.bad += 1
        if len(self._problems) < 2 * MAX_PROBLEMS:
            place = self._source.format_place(line)
            self._problems.append(
                Problem(index=line.index, place=place, message=message, field=field, custom_id=name)
            )

    def _count_request(self, request: BatchRequest, times: int) -> None:
        self._models[request.body.get("model", "")] += times
        self._urls[request.url] += times
