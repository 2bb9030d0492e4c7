"""Embeddings: texts in batches, vectors in their order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Never

from foundry_api.core.call import Call, CallRequest
from foundry_api.core.model_task import check_embeds
from foundry_api.core.operation import EndpointOperation, WholeBody
from foundry_api.types.checks import check_several, check_text
from foundry_api.types.errors import (
    ContextOverflow,
    InvalidRequest,
    ProtocolError,
    UnsupportedFeature,
)
from foundry_api.types.messages import Timings, Usage
from foundry_api.types.results import Embeddings
from foundry_api.types.values import as_int, shown
from foundry_api.wire.endpoints.embeddings import EMBEDDINGS_ROUTE, decoded, embeddings_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from foundry_api.core.call import CallContext
    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import Outcome
    from foundry_api.resilience.deadline import Deadline
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import OperationName
    from foundry_api.types.messages import Model
    from foundry_api.types.results import Vector
    from foundry_api.wire.transport import Request

__all__ = ["BATCH_SIZE", "check_batch_size", "checked_texts", "embed"]

BATCH_SIZE = 32
"""The engines embed one text after the other (embeddings_session.cc), so that larger batches save
only requests; a batch that fails is sent again whole, and its answer waits for its last text."""

AT_ONCE = 4
"""Batches that wait for their turn at a time. The limiter decides how many are sent."""

_Told = tuple["tuple[Vector, ...]", "Usage | None"]


@dataclass(frozen=True, slots=True)
class Batch(EndpointOperation[Never, _Told]):
    """Some texts to embed."""

    texts: tuple[str, ...]
    name: ClassVar[OperationName] = "embeddings"

    def check(self, capabilities: Capabilities) -> None:
        """Refuse a generation without embeddings."""
        if capabilities.embeddings == "unsupported":
            raise UnsupportedFeature(
                f"a service of generation {capabilities.generation} makes no embeddings"
            )

    async def verify(self, connection: Connection, model: Model) -> None:
        """Refuse a model that makes none."""
        await check_embeds(connection, model)

    def request(self, connection: Connection, model: Model) -> Request:
        """What is sent."""
        path = connection.dialect.path(model.catalog, EMBEDDINGS_ROUTE)
        return connection.wire.post(path, embeddings_body(model.id, self.texts))

    def amend(self, error: FoundryError) -> None:
        """Nothing can be put right: say what could be of too long a text."""
        if isinstance(error, ContextOverflow):
            error.blame_prompt()

    def decoder(self, connection: Connection, model: Model) -> WholeBody[_Told]:
        """Reads the vectors."""
        del connection, model
        return WholeBody(lambda body: decoded(body, len(self.texts)))


async def embed(
    tools: CallContext,
    texts: Sequence[str],
    *,
    model: str,
    timeout_s: float | Literal["auto"],
    deadline: Deadline,
    batch_size: int = BATCH_SIZE,
    download: bool = False,
) -> Embeddings:
    """The vectors of texts that were checked, in their order.

    Args:
        tools: What the client's calls share.
        texts: At least one.
        model: Its name as the caller said it.
        timeout_s: Seconds that a batch's answer may take.
        deadline: By when all of them have to be there.
        batch_size: Texts of one request.
        download: Whether the model may be downloaded first.
    """
    started = tools.clock()

    def call(batch: Batch) -> Awaitable[Outcome[_Told]]:
        order = CallRequest((model,), batch, timeout_s, deadline, download)
        return Call(tools, order, batch).result()

    outcomes = await _in_order(call, list(_batches(texts, batch_size)))
    vectors = tuple(vector for each in outcomes for vector in each.result[0])
    _check_alike(outcomes, vectors)
    timings = Timings(
        time_to_first_token_s=None,
        total_s=tools.clock() - started,
        tokens_per_second=None,
        queued_s=sum(each.timings.queued_s for each in outcomes),
    )
    return Embeddings(
        vectors=vectors,
        model=outcomes[-1].model.id,
        service=outcomes[-1].service,
        generation=outcomes[-1].generation,
        usage=_total([each.result[1] for each in outcomes]),
        timings=timings,
        attempts=tuple(attempt for each in outcomes for attempt in each.attempts),
    )


def check_batch_size(size: object) -> int:
    """A number of texts for one request.

    Raises:
        InvalidRequest: It is no whole number above 0.
    """
    number = as_int(size)
    if number is None or number < 1:
        raise InvalidRequest(f"batch_size is {shown(size)}, not 1 or more", field="batch_size")
    return number


def checked_texts(texts: object) -> tuple[str, ...]:
    """The texts, one or several.

    Raises:
        InvalidRequest: There are none, or one is no text, empty, or cannot be sent.
    """
    if isinstance(texts, str):
        return (check_text("texts", texts),)
    several = check_several("texts", texts, "a text or a list of texts")
    checked = tuple(check_text(f"texts[{index}]", text) for index, text in enumerate(several))
    if not checked:
        raise InvalidRequest("texts is empty", field="texts")
    return checked


def _batches(texts: Sequence[str], size: int) -> Iterator[Batch]:
    for start in range(0, len(texts), size):
        yield Batch(tuple(texts[start : start + size]))


async def _in_order(
    call: Callable[[Batch], Awaitable[Outcome[_Told]]], batches: Sequence[Batch]
) -> list[Outcome[_Told]]:
    """The outcomes in the order of the batches. The first failure ends the others."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def run(batch: Batch) -> Outcome[_Told]:
        async with gate:
            return await call(batch)

    tasks = [asyncio.create_task(run(batch)) for batch in batches]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_alike(outcomes: Sequence[Outcome[_Told]], vectors: Sequence[Vector]) -> None:
    """Vectors of different models cannot be compared."""
    models = sorted({each.model.id for each in outcomes})
    if len(models) > 1 or len({len(vector) for vector in vectors}) > 1:
        raise ProtocolError(
            f"the texts were embedded differently: by {' and '.join(models)}",
            hint="Name the model by its full id, so that every service takes the same.",
        )


def _total(usages: Sequence[Usage | None]) -> Usage | None:
    counted = [usage for usage in usages if usage is not None]
    if len(counted) < len(usages):
        return None
    return Usage(
        sum(each.prompt_tokens for each in counted), 0, sum(each.total_tokens for each in counted)
    )
