"""What Wine 8 itself cannot do: a plugin of pytest that skips the tests that need it.

Each reason has a script in `proofs/`, which uses the standard library alone. It fails under Wine,
and succeeds on Windows: this is how a fault of Wine is told from one of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LIMITS", "Limit", "find_limit"]


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that Wine cannot do.

    Attributes:
        proof: The script in `proofs/` that shows it.
        reason: One line for the report.
        tests: Patterns of ids of tests that need it.
    """

    proof: str
    reason: str
    tests: tuple[str, ...]


LIMITS: tuple[Limit, ...] = ()


def find_limit(test: str, limits: Iterable[Limit] = LIMITS) -> Limit | None:
    """Return the limit that keeps a test from running, if there is one."""
    for limit in limits:
        if any(fnmatchcase(test, pattern) for pattern in limit.tests):
            return limit
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        limit = find_limit(item.nodeid.replace("[", "(").replace("]", ")"))
        if limit is not None:
            item.add_marker(pytest.mark.skip(reason=f"Wine: {limit.reason}"))
