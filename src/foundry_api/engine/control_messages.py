"""Responses of the control API of an engine host."""

from __future__ import annotations

import msgspec

from foundry_api.types.models import Model

__all__ = ["HostInfo", "HostMemory", "PublicListing"]


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /host` of the control API returns.

    Attributes:
        url: Address of the engine.
        uptime_s: Seconds since the host was ready.
        owner_pid: The process that a private host belongs to; None for a shared host.
        idle_timeout_s: Seconds without use after which a shared host exits; 0 for never.
        problems: Models that could not be registered at the start, and why.
        catalog_url: Replaces Microsoft's public catalog, for tests.
    """

    pid: int
    url: str
    uptime_s: float
    sdk_version: str
    log_path: str
    owner_pid: int | None
    idle_timeout_s: float
    problems: tuple[str, ...] = ()
    catalog_url: str | None = None


class HostMemory(msgspec.Struct, frozen=True):
    """Memory of a host.

    Attributes:
        rss_bytes: Resident memory of its process.
        models_bytes: What was added since the engine started, for models and their requests.
        includes: What the resident memory consists of.
    """

    rss_bytes: int
    models_bytes: int
    includes: tuple[str, ...]


class PublicListing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The models of the public catalog.

    Attributes:
        models: Every variant.
        fetched_at: When the catalog was last reached, in seconds since the epoch; None if unknown.
        unreachable: Why the catalog could not be reached the last time; None if it was reached.
    """

    models: tuple[Model, ...]
    fetched_at: float | None = None
    unreachable: str | None = None
