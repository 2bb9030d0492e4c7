"""Deadlines for calls and for blocks of code."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from foundry_api.types.errors import DeadlineExceeded, InvalidRequest
from foundry_api.types.values import as_float, format_value

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["NEVER", "Deadline", "current_deadline", "deadline", "enforce_deadline", "no_deadline"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Deadline(msgspec.Struct, frozen=True):
    """A point in time by which work must be complete.

    Attributes:
        at: Time on the event loop's clock; infinity for no deadline.
        limit_s: The number of seconds with which the deadline was set.
    """

    at: float
    limit_s: float

    @classmethod
    def after(cls, seconds: object) -> Deadline:
        """Return the earlier of the current deadline and `seconds` from now."""
        # Zero and negative seconds are allowed, because callers compute `end - now`: the deadline
        # has then passed.
        outer = current_deadline()
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
    def for_call(cls, seconds: object, default_s: float | None) -> Deadline:
        """Return the deadline of a call; without one, apply the client's default."""
        return cls.after(default_s if seconds is None else seconds)

    def check(self) -> None:
        """Raise DeadlineExceeded if the deadline has passed."""
        if self.at <= _now():
            raise self.make_error()

    def make_error(self, stage: str = "") -> DeadlineExceeded:
        """Make the error for work that took too long; `stage` is what it was doing."""
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

# Returns the deadline set by the enclosing `deadline` block; NEVER outside of one.
current_deadline = _CURRENT.get


@contextmanager
def deadline(seconds: float) -> Generator[Deadline]:
    """Limit the time of all calls of this package inside the block, with queueing and retries.

        with deadline(20):
            facts = await client.complete("…")
            await client.complete(f"… {facts.content}")     # has the rest of the 20 s

    Tasks started inside the block have the deadline too. Of nested deadlines, the earliest applies.

    Args:
        seconds: Seconds from now. With 0 or less, every call in the block raises at once.

    Yields:
        The deadline that applies in the block.

    Raises:
        InvalidRequest: `seconds` is not a number.
    """
    before = _CURRENT.set(Deadline.after(seconds))
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(before)


def enforce_deadline(
    function: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Wrap a coroutine function so that it raises DeadlineExceeded at the current deadline."""

    @functools.wraps(function)
    async def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        current = current_deadline()
        if current is NEVER:
            return await function(*args, **kwargs)
        current.check()
        scope = asyncio.timeout_at(current.at)
        try:
            async with scope:
                return await function(*args, **kwargs)
        except TimeoutError as error:
            if not scope.expired():
                raise  # a timeout inside the function
            raise current.make_error() from error

    return wrapper


def no_deadline() -> Context:
    """Copy the caller's context without its deadline, for work that several callers share."""
    context = copy_context()
    context.run(_CURRENT.set, NEVER)
    return context


def _now() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # a `deadline` block around `asyncio.run`; its loops use this clock
        return time.monotonic()
