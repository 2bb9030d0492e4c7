"""The records of keys. Placeholder until the keys land."""

from __future__ import annotations

import msgspec

__all__ = ["ApiKey"]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key."""

    id: str
    scopes: frozenset[str]
    models: frozenset[str] | None = None
