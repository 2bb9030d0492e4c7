"""The wait for an engine that reads the prompt of a call that has ended."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from typing import TYPE_CHECKING

import pytest

from foundry_api.core import abandoned_reads
from foundry_api.core.abandoned_reads import AbandonedRead, AbandonedReads
from foundry_api.resilience.limiter import Limiter, LimiterSettings
from foundry_api.resilience.prompt_reading import PromptReading, PromptSize, ReadingEstimate
from foundry_api.types.errors import StreamInterrupted
from foundry_api.wire.chat.stream import ChatStream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.virtual_time import Run

KEEP_ALIVE = b": keep-alive\n\n"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


class FakeResponse:
    """A body whose blocks arrive after given times; then it is silent, or breaks off."""

    status = 200
    headers: Mapping[str, str] = {}
    ended = False

    def __init__(self, *blocks: tuple[float, bytes], breaks: bool = False) -> None:
        self._blocks = deque(blocks)
        self._breaks = breaks
        self.closed_at: float | None = None

    async def read(self) -> bytes:
        if not self._blocks:
            if self._breaks:
                raise StreamInterrupted("the connection broke")
            await asyncio.Event().wait()
        delay_s, block = self._blocks.popleft()
        await asyncio.sleep(delay_s)
        return block

    def close(self) -> None:
        self.closed_at = asyncio.get_running_loop().time()


class Engine:
    """A service with one slot, which an abandoned call has."""

    def __init__(
        self,
        response: FakeResponse | None,
        estimate: ReadingEstimate | None = None,
        *,
        has_keep_alives: bool = True,
        limiter: Limiter | None = None,
    ) -> None:
        self.limiter = limiter or Limiter(LimiterSettings(concurrency=1))
        self.reads = AbandonedReads(self.limiter)
        self.reading = PromptReading(lambda: 0.0)
        slot = self.limiter.try_acquire()
        assert slot is not None
        self.released_at: float | None = None
        self.loop = asyncio.get_running_loop()

        def release() -> None:
            self.released_at = self.loop.time()
            slot.release()

        read = AbandonedRead(
            response=response,
            decoder=ChatStream("tiny:1"),
            release=release,
            has_keep_alives=has_keep_alives,
            sent_at=self.loop.time() - 1.0,
            last_slot=self.limiter.acquired if self.limiter.load == 1 else None,
            size=PromptSize.of(["word " * 800]),
            reading=self.reading,
            estimate=estimate,
        )
        self.prompt = self.reads.add(read, self.loop)

    async def is_held_for(self, seconds: float) -> bool:
        """Return whether the slot becomes free so much later, and not before."""
        await asyncio.sleep(seconds - 0.01)
        is_held = self.limiter.try_acquire() is None and self.limiter.statistics().abandoned == 1
        await asyncio.sleep(0.02)
        return is_held and self.limiter.try_acquire() is not None and not self.limiter.abandoned


def test_slot_is_taken_until_the_first_token(run: Run) -> None:
    async def scenario() -> None:
        response = FakeResponse(*[(0.25, KEEP_ALIVE)] * 400, (0.25, TOKEN))
        engine = Engine(response)
        assert await engine.is_held_for(100.25)
        assert response.closed_at == engine.released_at == pytest.approx(100.25)
        # A measurement, as nothing else ran: the second before it was abandoned counts as well.
        estimate = engine.reading.estimate(PromptSize.of(["word " * 800]), min_samples=1)
        assert estimate == (None, pytest.approx(101.25))

    run(scenario())


def test_service_without_keep_alives_may_be_silent_for_long(run: Run) -> None:
    async def scenario() -> None:
        engine = Engine(FakeResponse((300.0, TOKEN)), has_keep_alives=False)
        assert await engine.is_held_for(300.0)

    run(scenario())


def test_silence_of_a_service_with_keep_alives_ends_the_wait(run: Run) -> None:
    async def scenario() -> None:
        engine = Engine(FakeResponse((0.25, KEEP_ALIVE)))
        assert await engine.is_held_for(0.25 + abandoned_reads.SILENCE_S)
        assert engine.reading.is_empty

    run(scenario())


@pytest.mark.parametrize(
    ("estimate", "limit_s"),
    [
        (None, abandoned_reads.MAX_READ_S),
        (ReadingEstimate(10, 2.0), abandoned_reads.MIN_READ_S),
        (ReadingEstimate(10, 101.0), 100 * abandoned_reads.SLOWDOWN),
    ],
)
def test_engine_that_never_answers_has_the_slot_for_a_limited_time(
    run: Run, estimate: ReadingEstimate | None, limit_s: float
) -> None:
    async def scenario() -> None:
        response = FakeResponse(*[(0.25, KEEP_ALIVE)] * 10_000)
        engine = Engine(response, estimate)
        assert await engine.is_held_for(limit_s)
        assert response.closed_at is not None
        assert engine.reading.is_empty

    run(scenario())


@pytest.mark.parametrize(
    "response",
    [
        FakeResponse((1.0, KEEP_ALIVE), breaks=True),
        FakeResponse((1.0, b"")),
        FakeResponse((1.0, b'data: {"error":{"message":"no"}}\n\n')),
        FakeResponse((1.0, b"data: [DONE]\n\n")),
    ],
    ids=["a crash", "the end of the body", "an error", "an empty answer"],
)
def test_end_without_a_token_frees_the_slot(run: Run, response: FakeResponse) -> None:
    async def scenario() -> None:
        engine = Engine(response)
        assert await engine.is_held_for(1.0)
        assert response.closed_at is not None

    run(scenario())


def test_without_a_response_the_estimate_decides(run: Run) -> None:
    async def scenario() -> None:
        engine = Engine(None, ReadingEstimate(1500, 13.0))
        assert (engine.prompt.tokens, engine.prompt.remaining_s) == (1500, 12.0)
        assert await engine.is_held_for(12.0)

    run(scenario())


@pytest.mark.parametrize("has_begun", [False, True])
def test_closing_ends_the_wait(run: Run, *, has_begun: bool) -> None:
    async def scenario() -> None:
        response = FakeResponse()
        engine = Engine(response)
        if has_begun:
            await asyncio.sleep(0)
        await engine.reads.aclose()
        assert response.closed_at is not None
        assert engine.limiter.load == 0

    run(scenario())


def test_closing_ends_the_wait_for_an_estimate(run: Run) -> None:
    async def scenario() -> None:
        engine = Engine(None, ReadingEstimate(1500, 13.0))
        await engine.reads.aclose()
        assert engine.limiter.load == 0
        assert not engine.limiter.abandoned
        await asyncio.sleep(20)
        assert engine.limiter.load == 0

    run(scenario())


def test_abandoning_while_the_event_loop_ends_leaves_no_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leave() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            Engine(None, ReadingEstimate(1500, 13.0))

    async def scenario() -> None:
        tasks.append(asyncio.create_task(leave()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(scenario())
    tasks.clear()
    gc.collect()
    assert "destroyed" not in caplog.text


def test_reading_beside_another_call_measures_nothing(run: Run) -> None:
    async def scenario() -> None:
        limiter = Limiter(LimiterSettings(concurrency=2))
        other = limiter.try_acquire()
        assert other is not None
        engine = Engine(FakeResponse((0.25, KEEP_ALIVE), (0.25, TOKEN)), limiter=limiter)
        await asyncio.sleep(0.3)
        other.release()
        await asyncio.sleep(1)
        assert engine.released_at is not None
        assert engine.reading.is_empty

    run(scenario())


def test_reading_while_another_call_began_and_ended_measures_nothing(run: Run) -> None:
    async def scenario() -> None:
        limiter = Limiter(LimiterSettings(concurrency=2))
        engine = Engine(FakeResponse((0.25, KEEP_ALIVE), (0.25, TOKEN)), limiter=limiter)
        await asyncio.sleep(0.1)
        other = limiter.try_acquire()
        assert other is not None
        other.release()
        await asyncio.sleep(1)
        assert engine.released_at is not None
        assert engine.reading.is_empty

    run(scenario())
