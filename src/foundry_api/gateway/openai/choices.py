"""What chat and text completions have in common: several choices, their usage, their stream."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.gateway.generation import stream_all
from foundry_api.gateway.streaming import LastEvent
from foundry_api.types.messages import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.generation import Generation
    from foundry_api.gateway.limits.admission import Ticket
    from foundry_api.types.messages import Chunk

__all__ = ["END_OF_STREAM", "UsageCounter", "make_head", "stream_choices"]

END_OF_STREAM = b"data: [DONE]\n\n"


def make_head(exchange: Exchange, id_prefix: str, kind: str, model: str) -> dict[str, Any]:
    """Return the members that a result, or every chunk of a stream, begins with."""
    return {
        "id": f"{id_prefix}-{exchange.id.removeprefix('req_')}",  # so that logs lead to it
        "object": kind,
        "created": int(exchange.context.wall_clock()),
        "model": model,
        "system_fingerprint": None,
    }


class UsageCounter:
    """Adds the token counts of several choices. A prompt counts once for all its choices."""

    __slots__ = ("_choices", "_completion_tokens", "_prompt_tokens")

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._prompt_tokens = self._completion_tokens = 0

    def add(self, index: int, usage: Usage) -> None:
        """Add the counts of the choice with an index."""
        if index % self._choices == 0:
            self._prompt_tokens += usage.prompt_tokens
        self._completion_tokens += usage.completion_tokens

    @property
    def usage(self) -> Usage:
        """The sum."""
        total = self._prompt_tokens + self._completion_tokens
        return Usage(self._prompt_tokens, self._completion_tokens, total)


async def stream_choices(
    exchange: Exchange,
    generations: Sequence[Generation],
    ticket: Ticket,
    *,
    id_prefix: str,
    kind: str,
    encode_choice: Callable[[int, Chunk], bytes],
    counter: UsageCounter,
    includes_usage: bool,
) -> AsyncGenerator[bytes]:
    """Yield the events of a stream: chunks, token counts if they were requested, and the end.

    The events of chunks that arrived together are yielded together, as each write has a price.
    """
    remaining, last = len(generations), b""
    async with ticket, aclosing(stream_all(exchange, generations, ticket)) as blocks:
        # What all chunks of a stream share is encoded once, and not before the call has its slot:
        # thousands of calls may wait.
        head = make_head(exchange, id_prefix, kind, generations[0].model)
        head_json = msgspec.json.encode(head)[:-1]  # without the closing brace
        start = b'data: %b,"choices":[' % head_json
        # With `include_usage` every chunk has the member, and only the last one has counts.
        end = b'],"usage":null}\n\n' if includes_usage else b"]}\n\n"
        between = end + start
        async for index, chunks in blocks:
            ticket.add_output(len(chunks))
            events = b"%b%b%b" % (
                start,
                between.join([encode_choice(index, chunk) for chunk in chunks]),
                end,
            )
            if (usage := chunks[-1].usage) is not None:
                counter.add(index, usage)
                remaining -= 1
                if not remaining:
                    last = events  # sent with the end, which follows at once
                    continue
            yield events
        ticket.settle(counter.usage)
    if includes_usage:
        last += b'data: %b,"choices":[],"usage":%b}\n\n' % (
            head_json,
            msgspec.json.encode(counter.usage),
        )
    yield LastEvent(last + END_OF_STREAM)
