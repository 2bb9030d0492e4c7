"""Which calls a cache serves, and which answers it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from foundry_api.messages import ChatRequest, FinishReason

__all__ = ["CacheUse", "is_deterministic", "is_kept", "is_served"]

CacheUse = Literal["auto", "always", "never"]

KEPT: frozenset[FinishReason] = frozenset({"stop", "length", "tool_calls"})
"""The answer ended by itself, or at the bound that is part of its key."""


def is_served(request: ChatRequest, use: CacheUse, *, only_deterministic: bool) -> bool:
    """Whether a call may be answered from the cache, and its answer kept there.

    Args:
        request: What is asked.
        use: What the caller says of this call.
        only_deterministic: Whether `auto` means only calls that have one answer.
    """
    if use == "auto":
        return not only_deterministic or is_deterministic(request)
    return use == "always"


def is_deterministic(request: ChatRequest) -> bool:
    """Whether the engine is to give the same answer each time: temperature 0, or a seed."""
    return _said(request, "temperature") == 0 or _said(request, "seed") is not None


def is_kept(finish_reason: FinishReason) -> bool:
    """Whether an answer that ended so is worth keeping. Those that broke off never get here."""
    return finish_reason in KEPT


def _said(request: ChatRequest, name: str) -> object:
    """What the body will say: the caller's own arguments win over `extra`."""
    value: object = getattr(request, name)
    return request.extra.get(name) if value is None else value
