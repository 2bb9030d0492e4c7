"""Admission of calls: which may start, in which order, and what they use up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.types.messages import Usage

__all__ = ["Admission", "Ticket", "Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a call asks for.

    Attributes:
        model: The model that is sent to the service.
        prompt_tokens: An estimate of the tokens of the prompt.
        max_tokens: The limit of the answer; None for the model's default.
        body_bytes: Size of the request.
        deadline_s: Seconds after which the caller no longer waits; None for no limit.
    """

    model: str
    prompt_tokens: int
    max_tokens: int | None
    body_bytes: int
    deadline_s: float | None = None


class Ticket:
    """An admitted call. Entering it waits for a slot; leaving it settles what the call used."""

    def __init__(self) -> None:
        self.queued_s = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def add_output(self, tokens: int) -> None:
        """Count tokens that were generated."""

    def settle(self, usage: Usage) -> None:
        """Replace the estimates by the counts of the service."""


class Admission:
    """Decides about every call in one step, without waiting."""

    def admit(self, key: ApiKey | None, work: Work) -> Ticket:
        """Admit a call.

        Raises:
            RequestError: The key's limits or the queue do not allow it; nothing was used up.
        """
        del key, work
        return Ticket()
