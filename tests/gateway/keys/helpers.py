"""What the tests of keys share."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from foundry_api.gateway.keys.types import NewKey

if TYPE_CHECKING:
    from foundry_api.gateway.keys.database import KeyDatabase
    from foundry_api.gateway.keys.types import ApiKey

START = 1_800_000_000.0
DAY_S = 86_400.0


class FakeClock:
    """A clock that a test sets."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def create(database: KeyDatabase, name: str = "ci", **members: Any) -> tuple[ApiKey, str]:
    return database.create(NewKey(name=name, **members))


def add_checksum(body: str) -> str:
    """Make a well-formed token of everything before its checksum."""
    return f"{body}{zlib.crc32(body.encode()):08x}"


def has_checksum(text: str) -> bool:
    """Whether a text is well-formed, as a scanner for leaked tokens finds out."""
    return text == add_checksum(text[:-8])
