"""Walk over decoded JSON without recursion: answers may be nested deeper than Python recurses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from foundry_api.types.values import is_list, is_object

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_nested_deeper", "iter_values"]


def iter_values(value: Any) -> Iterator[Any]:
    """Yield a value and all values in it, each container before its members."""
    stack = [value]
    while stack:
        current = stack.pop()
        yield current
        # Not with is_object and is_list: the two calls would take half of the time.
        if isinstance(current, dict):
            stack.extend(reversed(cast("dict[str, Any]", current).values()))
        elif isinstance(current, list):
            items: list[Any] = current  # pyright: ignore[reportUnknownVariableType] # of JSON
            stack.extend(reversed(items))


def is_nested_deeper(value: Any, depth: int) -> bool:
    """Check whether a value has more levels of containers than `depth`."""
    level: list[Any] = [value]
    for _ in range(depth + 1):
        children: list[Any] = []
        for item in level:
            if is_object(item):
                children.extend(item.values())
            elif is_list(item):
                children.extend(item)
        if not children:
            return False
        level = children
    return True
