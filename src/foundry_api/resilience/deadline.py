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

from foundry_api.errors import DeadlineExceeded, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["NEVER", "Deadline", "bounded", "current", "deadline", "unbounded"]

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
    def after(cls, seconds: float | None) -> Deadline:
        """So many seconds from now, or what is set around the caller if that is earlier.

        Raises:
            InvalidRequest: The number of seconds is not above 0.
        """
        outer = current()
        if seconds is None:
            return outer
        if not seconds > 0:
            raise InvalidRequest(f"deadline is {seconds}, but must be above 0", field="deadline")
        at = _now() + seconds
        return outer if outer.at <= at else cls(at, seconds)

    def exceeded(self, stage: str = "") -> DeadlineExceeded:
        """The error for work that was not over in time.

        Args:
            stage: How far it was.
        """
        where = f"; it was {stage}" if stage else ""
        return DeadlineExceeded(
            f"the deadline of {self.limit_s:g} s passed{where}", limit_s=self.limit_s, stage=stage
        )


NEVER = Deadline(math.inf, math.inf)
_CURRENT: ContextVar[Deadline] = ContextVar("foundry_api_deadline", default=NEVER)


def current() -> Deadline:
    """The deadline that is set around the caller; `NEVER` without one."""
    return _CURRENT.get()


@contextmanager
def deadline(seconds: float) -> Generator[Deadline]:
    """Bound every call of this package that is begun inside, with its queueing and retries.

        with deadline(20):
            facts = await client.complete("…")
            await client.complete(f"… {facts.content}")     # has what is left of the 20 s

    Tasks that are started inside are bound too. Of several deadlines the earliest counts.

    Args:
        seconds: From now on, above 0.

    Raises:
        InvalidRequest: The number of seconds is not above 0.
    """
    before = _CURRENT.set(Deadline.after(seconds))
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(before)


def bounded(
    function: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """A coroutine function that raises `DeadlineExceeded` when its caller's deadline passes."""

    @functools.wraps(function)
    async def inside(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        bound = current()
        if bound is NEVER:
            return await function(*args, **kwargs)
        scope = asyncio.timeout_at(bound.at)
        try:
            async with scope:
                return await function(*args, **kwargs)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise bound.exceeded() from error

    return inside


def unbounded() -> Context:
    """The caller's context without his deadline, for work that others share."""
    context = copy_context()
    context.run(_CURRENT.set, NEVER)
    return context


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # set around `asyncio.run`, whose loops have this clock
        return time.monotonic()
