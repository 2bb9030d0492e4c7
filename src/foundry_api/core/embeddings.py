"""Embeddings: texts in batches, vectors in their order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Never

from foundry_api.core.call import Call, CallRequest
from foundry_api.core.model_task import check_embedding_support
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
from foundry_api.types.values import as_int, format_value
from foundry_api.wire.endpoints.embeddings import (
    EMBEDDINGS_ROUTE,
    decode_embeddings,
    make_embeddings_body,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from foundry_api.core.call import CallContext
    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import Outcome
    from foundry_api.resilience.deadline import Deadline
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import OperationName
    from foundry_api.types.models import Model
    from foundry_api.types.results import Vector
    from foundry_api.wire.transport import Request

__all__ = ["BATCH_SIZE", "check_batch_size", "embed", "validate_texts"]

BATCH_SIZE = 32
"""The engines embed one text after the other (embeddings_session.cc), so that larger batches save
only requests; a batch that fails is sent again whole, and its answer waits for its last text."""

MAX_CONCURRENT = 4
"""Batches that wait for their turn at a time. The limiter decides how many are sent."""

_EmbeddingsBody = tuple["tuple[Vector, ...]", "Usage | None"]


@dataclass(frozen=True, slots=True)
class EmbeddingOperation(EndpointOperation[Never, _EmbeddingsBody]):
    """Some texts to embed."""

    texts: tuple[str, ...]
    name: ClassVar[OperationName] = "embeddings"

    def check(self, capabilities: Capabilities) -> None:
        """Refuse a generation without embeddings."""
        if capabilities.embeddings == "unsupported":
            raise UnsupportedFeature(
                f"a service of generation {capabilities.service_generation} makes no embeddings"
            )

    async def preflight(self, connection: Connection, model: Model) -> None:
        """Refuse a model that makes none."""
        await check_embedding_support(connection, model)

    def request(self, connection: Connection, model: Model) -> Request:
        """What is sent."""
        path = connection.dialect.make_path(model.catalog, EMBEDDINGS_ROUTE)
        return connection.wire.build_post(path, make_embeddings_body(model.id, self.texts))

    def amend(self, error: FoundryError) -> None:
        """Nothing can be put right: say what could be of too long a text."""
        if isinstance(error, ContextOverflow):
            error.blame_prompt()

    def decoder(self, connection: Connection, model: Model) -> WholeBody[_EmbeddingsBody]:
        """Reads the vectors."""
        del connection, model
        return WholeBody(lambda body: decode_embeddings(body, len(self.texts)))


async def embed(
    context: CallContext,
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
        context: What the client's calls share.
        texts: At least one.
        model: Its name as the caller said it.
        timeout_s: Seconds that a batch's answer may take.
        deadline: By when all of them have to be there.
        batch_size: Texts of one request.
        download: Whether the model may be downloaded first.
    """
    started = context.monotonic()

    def call(batch: EmbeddingOperation) -> Awaitable[Outcome[_EmbeddingsBody]]:
        request = CallRequest((model,), batch, timeout_s, deadline, download)
        return Call(context, request, batch).result()

    outcomes = await _run_batches(call, list(_make_batches(texts, batch_size)))
    vectors = tuple(vector for outcome in outcomes for vector in outcome.result[0])
    _check_same_model(outcomes, vectors)
    timings = Timings(
        time_to_first_token_s=None,
        total_s=context.monotonic() - started,
        tokens_per_second=None,
        queued_s=sum(outcome.timings.queued_s for outcome in outcomes),
    )
    return Embeddings(
        vectors=vectors,
        model=outcomes[-1].model.id,
        service=outcomes[-1].service,
        service_generation=outcomes[-1].service_generation,
        usage=_sum_usage([outcome.result[1] for outcome in outcomes]),
        timings=timings,
        attempts=tuple(attempt for outcome in outcomes for attempt in outcome.attempts),
    )


def check_batch_size(size: object) -> int:
    """A number of texts for one request.

    Raises:
        InvalidRequest: It is no whole number above 0.
    """
    number = as_int(size)
    if number is None or number < 1:
        raise InvalidRequest(
            f"batch_size is {format_value(size)}, not 1 or more", field="batch_size"
        )
    return number


def validate_texts(texts: object) -> tuple[str, ...]:
    """The texts, one or several.

    Raises:
        InvalidRequest: There are none, or one is no text, empty, or cannot be sent.
    """
    if isinstance(texts, str):
        return (check_text("texts", texts),)
    items = check_several("texts", texts, "a text or a list of texts")
    validated = tuple(check_text(f"texts[{index}]", text) for index, text in enumerate(items))
    if not validated:
        raise InvalidRequest("texts is empty", field="texts")
    return validated


def _make_batches(texts: Sequence[str], size: int) -> Iterator[EmbeddingOperation]:
    for start in range(0, len(texts), size):
        yield EmbeddingOperation(tuple(texts[start : start + size]))


async def _run_batches(
    call: Callable[[EmbeddingOperation], Awaitable[Outcome[_EmbeddingsBody]]],
    batches: Sequence[EmbeddingOperation],
) -> list[Outcome[_EmbeddingsBody]]:
    """The outcomes in the order of the batches. The first failure ends the others."""
    semaphore = asyncio.Semaphore(MAX_CONCURRENT)

    async def run(batch: EmbeddingOperation) -> Outcome[_EmbeddingsBody]:
        async with semaphore:
            return await call(batch)

    tasks = [asyncio.create_task(run(batch)) for batch in batches]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_same_model(
    outcomes: Sequence[Outcome[_EmbeddingsBody]], vectors: Sequence[Vector]
) -> None:
    """Vectors of different models cannot be compared."""
    models = sorted({outcome.model.id for outcome in outcomes})
    if len(models) > 1 or len({len(vector) for vector in vectors}) > 1:
        raise ProtocolError(
            f"the texts were embedded differently: by {' and '.join(models)}",
            hint="Name the model by its full id, so that every service takes the same.",
        )


def _sum_usage(usages: Sequence[Usage | None]) -> Usage | None:
    counted = [usage for usage in usages if usage is not None]
    if len(counted) < len(usages):
        return None
    return Usage(
        sum(item.prompt_tokens for item in counted), 0, sum(item.total_tokens for item in counted)
    )
