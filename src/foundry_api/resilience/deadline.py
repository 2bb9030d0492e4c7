"""Deadlines: by when a piece of work has to be over, everything that runs inside it included."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from foundry_api.types.errors import DeadlineExceeded, InvalidRequest
from foundry_api.types.values import as_float, format_value

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["NEVER", "Deadline", "current", "deadline", "enforce_deadline", "no_deadline"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment, and how far away it was when it was set.

    Attributes:
        at: The moment on the event loop's clock; infinite for none.
        limit_s: Seconds that were given.
    """

    at: float
    limit_s: float

    @classmethod
    def after(cls, seconds: object) -> Deadline:
        """So many seconds from now, or what is set around the caller if that is earlier.

        Of 0 or fewer seconds, as `end - now` may give them, it is one that has passed.

        Raises:
            InvalidRequest: It is no number of seconds.
        """
        outer = current()
        if seconds is None:
            return outer
        limit_s = as_float(seconds)
        if limit_s is None or math.isnan(limit_s):
            raise InvalidRequest(
                f"deadline is {format_value(seconds)}, not a number of seconds", field="deadline"
            )
        at = _now() + limit_s
        return outer if outer.at <= at else cls(at, limit_s)

    @classmethod
    def of(cls, seconds: object, default_s: float | None) -> Deadline:
        """The deadline of a call, or the client's where the call has none."""
        return cls.after(default_s if seconds is None else seconds)

    def check(self) -> None:
        """Refuse to begin what cannot be over in time.

        Raises:
            DeadlineExceeded: It has passed.
        """
        if self.at <= _now():
            raise self.exceeded()

    def exceeded(self, stage: str = "") -> DeadlineExceeded:
        """The error for work that was not over in time.

        Args:
            stage: How far it was.
        """
        if self.limit_s <= 0:
            return DeadlineExceeded(
                f"the deadline of {self.limit_s:g} s had passed before the call began",
                limit_s=self.limit_s,
                stage=stage,
                hint="Nothing was sent. Allow a deadline above 0 s.",
            )
        where = f"; it was {stage}" if stage else ""
        return DeadlineExceeded(
            f"the deadline of {self.limit_s:g} s passed{where}", limit_s=self.limit_s, stage=stage
        )


NEVER = Deadline(math.inf, math.inf)
_CURRENT: ContextVar[Deadline] = ContextVar("foundry_api_deadline", default=NEVER)


current = _CURRENT.get
"""Returns the deadline that is set around the caller; `NEVER` without one."""


@contextmanager
def deadline(seconds: float) -> Generator[Deadline]:
    """Bound every call of this package that is begun inside, with its queueing and retries.

        with deadline(20):
            facts = await client.complete("…")
            await client.complete(f"… {facts.content}")     # has what is left of the 20 s

    Tasks that are started inside are bound too. Of several deadlines the earliest counts.

    Args:
        seconds: From now on. With 0 or fewer every call inside raises at once.

    Raises:
        InvalidRequest: It is no number of seconds.
    """
    before = _CURRENT.set(Deadline.after(seconds))
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(before)


def enforce_deadline(
    function: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """A coroutine function that raises `DeadlineExceeded` when its caller's deadline passes."""

    @functools.wraps(function)
    async def inside(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        bound = current()
        if bound is NEVER:
            return await function(*args, **kwargs)
        bound.check()
        scope = asyncio.timeout_at(bound.at)
        try:
            async with scope:
                return await function(*args, **kwargs)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise bound.exceeded() from error

    return inside


def no_deadline() -> Context:
    """The caller's context without his deadline, for work that others share."""
    context = copy_context()
    context.run(_CURRENT.set, NEVER)
    return context


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # set around `asyncio.run`, whose loops have this clock
        return time.monotonic()
