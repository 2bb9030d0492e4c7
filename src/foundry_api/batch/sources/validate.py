"""Check the whole input before a batch runs: invalid lines and repeated custom_ids."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from foundry_api.types.errors import BatchInputInvalid, InvalidRequest
from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.batch.sources.base import Source
    from foundry_api.batch.types import BatchRequest, Line

__all__ = ["CheckProgress", "CheckReport", "IdHashes", "Problem", "check"]

MAX_PROBLEMS = 100
# With more, the column is no identifier, and the set of duplicates would be as long as the input.
MAX_DUPLICATES = 100_000
LINES_BETWEEN_REPORTS = 1000

_PARTS = 64  # sorting one part of the hashes after the other needs less memory than all at once
_NO_ID = 0


class Problem(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A problem of one line.

    Attributes:
        index: The line's index.
        place: Where it is, such as `prompts.jsonl line 17`.
        message: The problem, with the place.
        field: The invalid field, if it is known.
        custom_id: The line's custom_id, if it has one.
    """

    index: int
    place: str
    message: str
    field: str | None
    custom_id: str | None


class CheckReport(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The content of an input.

    Attributes:
        lines: Number of requests, bad lines included.
        bad: Number of lines that are invalid, or repeat an earlier line's custom_id.
        models: Number of requests by model; `""` counts those that name none.
        urls: Number of requests by route.
        problems: The first problems, in the order of the lines.
        duplicates: Indexes of the lines that repeat an earlier line's custom_id.
    """

    lines: int
    bad: int
    models: dict[str, int]
    urls: dict[str, int]
    problems: tuple[Problem, ...]
    duplicates: frozenset[int]


class CheckProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a check.

    Attributes:
        lines: Lines checked.
        bad: Invalid lines among them.
        position_bytes: Bytes of the file read.
        size_bytes: Size of the file; None if it is unknown.
    """

    lines: int
    bad: int
    position_bytes: int
    size_bytes: int | None

    @property
    def fraction(self) -> float | None:
        """The fraction of the file that was read; None if its size is unknown."""
        if not self.size_bytes:
            return None
        return min(1.0, self.position_bytes / self.size_bytes)


def check(
    source: Source, *, on_progress: Callable[[CheckProgress], object] = lambda _: None
) -> CheckReport:
    """Check every line of an input. Blocks; needs little memory.

    `on_progress` is called every LINES_BETWEEN_REPORTS lines; an exception from it ends the check.
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
    return checker.finish()


class _InputCheck:
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
        self.lines += 1
        try:
            request = self._source.parse_request(line)
        except InvalidRequest as error:
            custom_id = self._source.get_custom_id(line)
            self._id_hashes.add(custom_id)
            self._record_problem(line, error.message, error.field, custom_id)
        else:
            self._id_hashes.add(request.custom_id)
            self._count_request(request, 1)

    def finish(self) -> CheckReport:
        candidates = self._id_hashes.find_candidates()
        if candidates.count > MAX_DUPLICATES:
            raise BatchInputInvalid(
                f"{candidates.count} lines of {self._source.name} have the custom_id of another "
                "line",
                field="custom_id",
                hint="Each line needs its own; a column `custom_id` or `id` is used for it.",
            )
        if candidates:
            self._confirm_duplicates(candidates)
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
        # Different ids can have the same hash, so the input is read again to compare the ids.
        # Invalid lines count, too: they also appear in the results under their custom_id.
        first_numbers: dict[str, int] = {}
        for line in self._source.iter_lines():
            if line.index not in candidates:
                continue
            custom_id = self._source.get_custom_id(line)
            if custom_id is None:
                continue
            first_number = first_numbers.setdefault(custom_id, line.number)
            if first_number == line.number:
                continue
            self._duplicates.add(line.index)
            try:
                request = self._source.parse_request(line)
            except InvalidRequest:
                continue  # already counted as a bad line
            self._count_request(request, -1)
            message = (
                f"{self._source.format_place(line)}: custom_id {custom_id!r} is already that of "
                f"{self._source.unit} {first_number}"
            )
            self._record_problem(line, message, "custom_id", custom_id)

    def _record_problem(
        self, line: Line, message: str, field: str | None, custom_id: str | None
    ) -> None:
        self.bad += 1
        # Sorted and cut to MAX_PROBLEMS at the end: duplicates, found last, may come first.
        if len(self._problems) < 2 * MAX_PROBLEMS:
            place = self._source.format_place(line)
            self._problems.append(
                Problem(
                    index=line.index,
                    place=place,
                    message=message,
                    field=field,
                    custom_id=custom_id,
                )
            )

    def _count_request(self, request: BatchRequest, change: int) -> None:
        self._models[request.body.get("model", "")] += change
        self._urls[request.url] += change


class IdHashes:
    """The custom_ids of all requests, in order, as hashes of 8 bytes."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, custom_id: str | None) -> None:
        self._hashes.append(_NO_ID if custom_id is None else hash(custom_id) or 1)

    def find_candidates(self) -> DuplicateCandidates:
        """Find the requests whose hash occurs more than once."""
        # Equal hashes are in the same part.
        parts = [array("q") for _ in range(_PARTS)]
        for hash_ in self._hashes:
            parts[hash_ % _PARTS].append(hash_)
        repeated: set[int] = set()
        while parts:
            previous = _NO_ID
            for hash_ in sorted(parts.pop()):
                if hash_ == previous != _NO_ID:
                    repeated.add(hash_)
                previous = hash_
        return DuplicateCandidates(self._hashes, frozenset(repeated))


class DuplicateCandidates:
    """The indexes of requests that may have the same custom_id as another one."""

    def __init__(self, hashes: array[int], repeated: frozenset[int]) -> None:
        self._hashes = hashes
        self._repeated = repeated

    def __bool__(self) -> bool:
        return bool(self._repeated)

    def __contains__(self, index: int) -> bool:
        return self._hashes[index] in self._repeated

    @property
    def count(self) -> int:
        """Their number, without the first request for each hash."""
        if not self._repeated:
            return 0
        return sum(map(self._repeated.__contains__, self._hashes)) - len(self._repeated)
