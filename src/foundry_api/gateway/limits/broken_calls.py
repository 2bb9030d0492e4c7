"""What answers that are not streamed cost when they break off.

Such an answer is collected by the client, which counts its tokens only if it gets to its end.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from foundry_api.gateway.tokens import estimate_text_tokens
from foundry_api.types.errors import ToolCallError
from foundry_api.types.events import CallEnded

if TYPE_CHECKING:
    from foundry_api.gateway.limits.admission import Ticket
    from foundry_api.types.events import Event

__all__ = ["BrokenCallCharge", "on_call_ended"]

# The client emits the events of a call in the task that makes it.
_TICKET: ContextVar[Ticket | None] = ContextVar("foundry_api_gateway_ticket", default=None)


class BrokenCallCharge:
    """Charges the tokens of the calls inside its block that do not get to their end."""

    # A class, because entering a `contextmanager` takes several times as long.

    __slots__ = ("_before", "_ticket")

    def __init__(self, ticket: Ticket | None) -> None:
        self._ticket = ticket

    def __enter__(self) -> None:
        self._before = _TICKET.set(self._ticket)

    def __exit__(self, *_: object) -> None:
        _TICKET.reset(self._before)


def on_call_ended(event: Event) -> None:
    """Charge the tokens of a call that has failed or was cancelled."""
    ticket = _TICKET.get()
    if ticket is not None and isinstance(event, CallEnded) and event.outcome != "answered":
        # A tool call is text of the model too, but not one that arrives in chunks.
        text = event.error.text if isinstance(event.error, ToolCallError) else ""
        ticket.add_lost(0, max(event.chunks, estimate_text_tokens(text) if text else 0))
