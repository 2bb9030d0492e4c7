"""Pages of lists: what the query of a request asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.files.database import Visibility

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.gateway.errors import RequestError
    from foundry_api.gateway.exchange import Exchange

__all__ = [
    "PageQuery",
    "get_bounds",
    "get_visibility",
    "make_wrong_cursor",
    "read_limit",
    "read_page_query",
]

SHOWN_CHARS = 32  # of a wrong value in a message


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page of a list.

    Attributes:
        limit: Its number of items, at most.
        after: The id of the item before it; None for the first page.
        is_ascending: Whether the oldest items come first.
    """

    limit: int
    after: str | None
    is_ascending: bool


def read_page_query(exchange: Exchange, *, default: int, most: int) -> PageQuery:
    """Read `limit`, `after` and `order`.

    Raises:
        RequestError: One of them is invalid.
    """
    query = exchange.request.query
    limit = read_limit(exchange, default=default, most=most)
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise make_invalid("order", f"order is {order[:SHOWN_CHARS]!r}, neither asc nor desc.")
    return PageQuery(limit, query.get("after"), order == "asc")


def read_limit(exchange: Exchange, *, default: int, most: int) -> int:
    """Read `limit`.

    Raises:
        RequestError: It is invalid.
    """
    limit = exchange.request.query.get("limit", str(default))
    is_number = limit.isascii() and limit.isdecimal() and len(limit) <= len(str(most))
    if not is_number or not 1 <= int(limit) <= most:
        raise make_invalid("limit", f"limit is {limit[:SHOWN_CHARS]!r}; 1 to {most} are allowed.")
    return int(limit)


def make_wrong_cursor(field: str = "after") -> RequestError:
    """Return the error for a cursor that names no item."""
    return make_invalid(field, f"{field} is the id of nothing in this list.")


class Bounds(TypedDict):
    """The ids of the first and the last item of a page; None on an empty one."""

    first_id: str | None
    last_id: str | None


def get_bounds(ids: Sequence[str]) -> Bounds:
    """Return what a page says of the ids of its items."""
    return Bounds(first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)


def get_visibility(exchange: Exchange) -> Visibility:
    """Return whose files and batches the caller sees: its own, or with `manage` all."""
    key = exchange.key
    if key is None:
        return Visibility()
    return Visibility(key.id, sees_all="manage" in key.scopes)
