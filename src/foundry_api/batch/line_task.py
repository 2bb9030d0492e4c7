"""A line of a file as a task: the request goes to the client, the answer becomes a line."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.batch.answers import Facts, answer_body, answer_line, facts_of, failed_line
from foundry_api.batch.ask import ask, model_of
from foundry_api.batch.lines import Finished
from foundry_api.batch.sharing import request_key
from foundry_api.batch.task import BatchTask
from foundry_api.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.batch.ask import Bounds
    from foundry_api.batch.lines import Work
    from foundry_api.cache.store import ResponseCache
    from foundry_api.client import FoundryAPIClient

__all__ = ["Calling", "LineTask", "Reply"]


class Answered(msgspec.Struct, frozen=True):
    """An answer without the line that it belongs to.

    Attributes:
        facts: What is told of it.
        body: The object that the route answers with.
    """

    facts: Facts
    body: msgspec.Raw


_DECODER = msgspec.json.Decoder(Answered)
_ENCODER = msgspec.json.Encoder()


class Reply(msgspec.Struct, frozen=True):
    """What became of a line.

    Attributes:
        finished: What the journal gets.
        answered: The answer, for identical lines.
        error: Why there is none.
    """

    finished: Finished
    answered: Answered | None = None
    error: FoundryError | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return 512 + 2 * len(self.finished.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """How lines are answered.

    Attributes:
        client: Makes the calls.
        bounds: What requests have no word for.
        dedupe: Whether identical lines share an answer.
        store: Where shared answers are kept beyond this process; None for nowhere.
        clock: Seconds of a monotonic clock.
        now: Seconds since the epoch.
    """

    client: FoundryAPIClient
    bounds: Bounds
    dedupe: bool = False
    store: ResponseCache | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


class LineTask(BatchTask[Reply]):
    """One line to answer."""

    __slots__ = ("_began", "_calling", "_work")

    def __init__(self, work: Work, calling: Calling) -> None:
        model = model_of(work.request, calling.client.settings.model)
        key = request_key(work.request, model) if calling.dedupe else None
        super().__init__(work.line.index, model, key)
        self._work = work
        self._calling = calling
        self._began: float | None = None

    async def run(self) -> Reply:
        """See `BatchTask.run`."""
        if self._began is None:
            self._began = self._calling.clock()
        store, name = self._calling.store, (self.key or b"").hex()
        if store is not None and (kept := await store.get(name)) is not None:
            return self._reply(_DECODER.decode(kept), shared=True)
        answered = await self._asked()
        if store is not None:
            await store.put(name, _ENCODER.encode(answered), model=answered.facts.model)
        return self._reply(answered, shared=answered.facts.shared)

    def failed(self, error: FoundryError) -> Reply:
        """See `BatchTask.failed`."""
        line, request = self._work.line, self._work.request
        finished = failed_line(
            line.index,
            line.digest,
            request.custom_id,
            error,
            at=self._calling.now(),
            model=self.group,
            duration_s=self._took_s,
        )
        return Reply(finished, error=error)

    def shared(self, result: Reply) -> Reply:
        """See `BatchTask.shared`."""
        if result.answered is not None:
            return self._reply(result.answered, shared=True)
        if result.error is not None:
            return self.failed(result.error)
        return result

    async def _asked(self) -> Answered:
        calling, request = self._calling, self._work.request
        answer = await ask(calling.client, request, calling.bounds, self.group)
        return Answered(facts_of(answer), msgspec.Raw(answer_body(request, answer, calling.now())))

    def _reply(self, answered: Answered, *, shared: bool) -> Reply:
        line, facts = self._work.line, answered.facts
        finished = Finished(
            index=line.index,
            digest=line.digest,
            output=answer_line(self._work.request, answered.body),
            failed=False,
            at=self._calling.now(),
            model=facts.model,
            duration_s=self._took_s,
            queued_s=0.0 if shared else facts.queued_s,
            time_to_first_token_s=None if shared else facts.time_to_first_token_s,
            prompt_tokens=facts.prompt_tokens,
            completion_tokens=facts.completion_tokens,
            attempts=0 if shared else facts.attempts,
            shared=shared,
        )
        return Reply(finished, answered)

    @property
    def _took_s(self) -> float:
        return 0.0 if self._began is None else self._calling.clock() - self._began
