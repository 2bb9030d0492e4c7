"""Iterables that may be generators, of which none is left open."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

__all__ = ["closed_after"]

_T = TypeVar("_T")


@asynccontextmanager
async def closed_after(items: AsyncIterable[_T]) -> AsyncGenerator[AsyncIterable[_T]]:
    """The same items; what makes them is closed at the end of the block, where it is a generator.

    Else what it holds would stay open until the garbage collector comes by.
    """
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()
