"""Embed texts in batches."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Never

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
    from collections.abc import Sequence

    from foundry_api.core.call import CallContext
    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import Outcome
    from foundry_api.resilience.deadline import Deadline
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.checks import Timeout
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import OperationName
    from foundry_api.types.models import Model
    from foundry_api.types.results import Vector
    from foundry_api.wire.transport import Request

__all__ = ["BATCH_SIZE", "check_batch_size", "embed", "validate_texts"]

# The engines embed one text after the other (embeddings_session.cc), so larger batches save only
# requests. A failed batch is sent again from its first text, so it should not be too large.
BATCH_SIZE = 32

MAX_CONCURRENT = 4  # batches that queue at the limiter, which decides how many are sent

_EmbeddingsBody = tuple["tuple[Vector, ...]", "Usage | None"]


@dataclass(frozen=True, slots=True)
class EmbeddingOperation(EndpointOperation[Never, _EmbeddingsBody]):
    """One batch of texts to embed."""

    texts: tuple[str, ...]
    name: ClassVar[OperationName] = "embeddings"

    def check(self, capabilities: Capabilities) -> None:
        if capabilities.embeddings == "unsupported":
            raise UnsupportedFeature(
                f"a service of generation {capabilities.service_generation} makes no embeddings"
            )

    async def preflight(self, connection: Connection, model: Model) -> None:
        await check_embedding_support(connection, model)

    def make_request(self, connection: Connection, model: Model) -> Request:
        dialect = connection.dialect
        body = make_embeddings_body(dialect.get_model_name(model), self.texts)
        path = dialect.make_path(model.catalog, EMBEDDINGS_ROUTE)
        return connection.service_client.build_post(path, body)

    def amend(self, error: FoundryError) -> None:
        # No correction is possible; only make the error say that the text is too long.
        if isinstance(error, ContextOverflow):
            error.blame_prompt()

    def make_decoder(self, connection: Connection, model: Model) -> WholeBody[_EmbeddingsBody]:
        del connection, model
        return WholeBody(lambda body: decode_embeddings(body, len(self.texts)))


async def embed(
    context: CallContext,
    texts: Sequence[str],
    *,
    model: str,
    timeout_s: Timeout,
    deadline: Deadline,
    batch_size: int = BATCH_SIZE,
    download: bool = False,
) -> Embeddings:
    """Return the vectors of at least one text, in the same order.

    `timeout_s` applies to each batch, `deadline` to all of them.
    """
    started_at = context.monotonic()
    semaphore = asyncio.Semaphore(MAX_CONCURRENT)

    async def run(batch: EmbeddingOperation) -> Outcome[_EmbeddingsBody]:
        async with semaphore:
            request = CallRequest((model,), batch, timeout_s, deadline, download)
            return await Call(context, request, batch).result()

    batches = [
        EmbeddingOperation(tuple(texts[start : start + batch_size]))
        for start in range(0, len(texts), batch_size)
    ]
    tasks = [asyncio.create_task(run(batch)) for batch in batches]
    try:
        outcomes = await asyncio.gather(*tasks)
    finally:  # the first failure ends the other batches
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    vectors = tuple(vector for outcome in outcomes for vector in outcome.result[0])
    # With several services or a fallback, batches may have run on different variants of a model.
    # Their vectors cannot be compared.
    models = sorted({outcome.model.id for outcome in outcomes})
    if len(models) > 1 or len({len(vector) for vector in vectors}) > 1:
        raise ProtocolError(
            f"the texts were embedded differently: by {' and '.join(models)}",
            hint="Name the model by its full id, so that all services use the same.",
        )
    timings = Timings(
        time_to_first_token_s=None,
        total_s=context.monotonic() - started_at,
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
    """Return a validated batch size."""
    number = as_int(size)
    if number is None or number < 1:
        raise InvalidRequest(
            f"batch_size is {format_value(size)}, not 1 or more", field="batch_size"
        )
    return number


def validate_texts(texts: object) -> tuple[str, ...]:
    """Return a validated tuple of one or more texts."""
    if isinstance(texts, str):
        return (check_text("texts", texts),)
    items = check_several("texts", texts, "a string or a list of strings")
    validated = tuple(check_text(f"texts[{index}]", text) for index, text in enumerate(items))
    if not validated:
        raise InvalidRequest("texts is empty", field="texts")
    return validated


def _sum_usage(usages: Sequence[Usage | None]) -> Usage | None:
    counted = [usage for usage in usages if usage is not None]
    if len(counted) < len(usages):
        return None  # a partial sum would be wrong
    return Usage(
        sum(item.prompt_tokens for item in counted), 0, sum(item.total_tokens for item in counted)
    )
