"""The last requests that failed, by which an operator finds out why a client is refused."""

from __future__ import annotations

from collections import deque

import msgspec

__all__ = ["Failure", "RecentFailures"]

MAX_FAILURES = 100
# Everybody who reaches the gateway can cause these, and would push the others out. They are in the
# audit log, where they are bounded apart.
OF_AUTHENTICATION = frozenset({"invalid_api_key", "too_many_failures", "insufficient_scope"})


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A request that failed. What its message says is left out: it may quote the request.

    Attributes:
        at: When it ended, on a monotonic clock.
        id: The id of the request.
        key: The name of the key; `none` without keys.
        model: The model, if it has answered before; else `none` or `other`.
        route: The path of its route.
        code: The code of its error.
    """

    at: float
    id: str
    key: str
    model: str
    route: str
    code: str


class RecentFailures:
    """The last failures.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._failures: deque[Failure] = deque(maxlen=MAX_FAILURES)

    def add(self, failure: Failure) -> None:
        """Remember a failure, unless it is one of authentication."""
        if failure.code not in OF_AUTHENTICATION:
            self.count += 1
            self._failures.append(failure)

    def list(self) -> list[Failure]:
        """Return the failures, the last one first."""
        return list(reversed(self._failures))
