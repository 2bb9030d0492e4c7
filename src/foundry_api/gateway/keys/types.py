"""Keys, and the limits that they have."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["SCOPES", "ApiKey", "KeyChanges", "KeyState", "Limit", "LimitUnit", "NewKey", "Scope"]

Scope = Literal["inference", "manage", "metrics"]
SCOPES: tuple[Scope, ...] = ("inference", "manage", "metrics")

KeyState = Literal["active", "expired", "revoked"]

LimitUnit = Literal["s", "m", "h", "d", "mo"]
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Limit(msgspec.Struct, frozen=True):
    """A number of requests or tokens in a period; its text is `60/m`."""

    amount: int
    unit: LimitUnit

    def __str__(self) -> str:
        return f"{self.amount}/{self.unit}"

    @property
    def period_s(self) -> float | None:
        """Length of the period; None for a month, whose length differs."""
        return UNITS_S.get(self.unit)


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a new key may do.

    Attributes:
        name: A name that no other key has.
        scopes: Which routes it opens: calls, management, metrics.
        models: Names of the models that it may use, in lower case; None for all.
        lifetime_s: Seconds until it expires; None if it never does.
        rate: Requests in a period; None for no limit.
        tokens: Tokens in each of several periods, at most one limit for each unit.
        parallel: Calls that may run at the same time; None for no limit.
        weight: Its share of a busy service, beside the weights of other keys.
    """

    name: str
    scopes: frozenset[Scope] = frozenset({"inference"})
    models: frozenset[str] | None = None
    lifetime_s: float | None = None
    rate: Limit | None = None
    tokens: tuple[Limit, ...] = ()
    parallel: int | None = None
    weight: float = 1.0


class KeyChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a key; the members of NewKey, of which those that are unset stay."""

    scopes: frozenset[Scope] | msgspec.UnsetType = msgspec.UNSET
    models: frozenset[str] | msgspec.UnsetType | None = msgspec.UNSET
    lifetime_s: float | msgspec.UnsetType | None = msgspec.UNSET
    rate: Limit | msgspec.UnsetType | None = msgspec.UNSET
    tokens: tuple[Limit, ...] | msgspec.UnsetType = msgspec.UNSET
    parallel: int | msgspec.UnsetType | None = msgspec.UNSET
    weight: float | msgspec.UnsetType = msgspec.UNSET

    def get_members(self, now: float) -> dict[str, Any]:
        """Return the members of a key that it sets, as of a time in seconds since the epoch."""
        members = {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if value is not msgspec.UNSET
        }
        if "lifetime_s" in members:
            lifetime_s = members.pop("lifetime_s")
            members["expires_at"] = None if lifetime_s is None else now + lifetime_s
        return members


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key. It contains neither a token nor a digest, so that it may be logged and shown.

    Attributes are those of NewKey, and:
        id: Its public id, which is also a part of its tokens.
        created_at: Seconds since the epoch, as all times.
        expires_at: When its tokens end; None if never.
        revoked_at: When it was revoked; None if it was not.
        grace_until: When the last of its earlier tokens ends; None without a rotation.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    models: frozenset[str] | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    grace_until: float | None = None
    rate: Limit | None = None
    tokens: tuple[Limit, ...] = ()
    parallel: int | None = None
    weight: float = 1.0

    def allows_model(self, *names: str) -> bool:
        """Whether the key may use a model, of which all names are given: its id, its alias."""
        return self.models is None or any(name.lower() in self.models for name in names)

    def describe(self, now: float) -> dict[str, Any]:
        """Return what people and programs may know of the key, as JSON."""
        in_grace = self.grace_until is not None and self.grace_until > now
        return {
            "id": self.id,
            "name": self.name,
            "state": self.get_state(now),
            "scopes": sorted(self.scopes),
            "models": None if self.models is None else sorted(self.models),
            "rate": None if self.rate is None else str(self.rate),
            "tokens": [str(limit) for limit in self.tokens],
            "parallel": self.parallel,
            "weight": self.weight,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "grace_until": self.grace_until if in_grace else None,
            "revoked_at": self.revoked_at,
        }

    def get_state(self, now: float) -> KeyState:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"
