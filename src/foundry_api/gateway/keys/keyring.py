"""The keys in memory. Placeholder until the keys land."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["Keyring"]


class Keyring(Protocol):
    """Finds keys."""

    problem: str | None

    def find(self, token: str) -> ApiKey | None:
        """Return the key of a token; None if it is unknown, expired or revoked."""
        ...
