"""What remains of calls that ended while the engine read their prompts.

No generation of Foundry Local stops reading a prompt when the client leaves (measured on 1.2.4,
2.0.1 and 2.2.1). The call returns at once, but its slot stays taken and its model in use until the
engine has read the prompt. The connection stays open for as long: the first token on it is the only
sign of that which every generation gives. Closing the connection then stops the engine.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.core.operation import Decoder
    from foundry_api.resilience.abandoned import AbandonedPrompt
    from foundry_api.resilience.limiter import Limiter
    from foundry_api.resilience.prompt_reading import PromptReading, PromptSize, ReadingEstimate
    from foundry_api.types.errors import CallTimeout
    from foundry_api.wire.transport import Response

__all__ = ["AbandonedRead", "AbandonedReads"]

log = logging.getLogger("foundry_api")

# A service that sends keep-alives does so every 250 ms. After this silence it hangs.
SILENCE_S = 5.0

# An engine that takes longer than this to read a prompt is taken to hang. A busy machine may be
# several times as slow as the estimate.
MAX_READ_S = 600.0
SLOWDOWN = 5.0
MIN_READ_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonedRead:
    """The request of a call that has ended.

    Attributes:
        response: Where its first token will arrive; None if the service sends nothing before that.
        decoder: Decodes the response.
        release: Called at the end: ends the use of the model and returns the slot.
        has_keep_alives: Whether the service sends keep-alives while it reads.
        sent_at: When the request was sent, on the event loop's clock.
        last_slot: The number of slots that the limiter had given out when the request was sent;
            None if another call was in flight then.
        size: The size of the prompt.
        reading: The measurements for its model.
        estimate: How long reading takes; None if unknown.
    """

    response: Response | None
    decoder: Decoder[Any, Any]
    release: Callable[[], None]
    has_keep_alives: bool
    sent_at: float
    last_slot: int | None
    size: PromptSize
    reading: PromptReading
    estimate: ReadingEstimate | None


class AbandonedReads:
    """The abandoned reads of one service. Each has a task or a timer for its end."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[AbandonedPrompt, tuple[AbandonedRead, asyncio.TimerHandle]] = {}

    def add(self, read: AbandonedRead, loop: asyncio.AbstractEventLoop) -> AbandonedPrompt:
        """Wait in the background until the engine has read the prompt."""
        tokens = remaining_s = None
        if read.estimate is not None:
            tokens = read.estimate.tokens
            remaining_s = max(0.0, read.sent_at + read.estimate.duration_s - loop.time())
        prompt = self._limiter.abandoned.add(tokens, remaining_s)
        if read.response is None:
            # A task that begins while the event loop ends would be reported as destroyed.
            timer = loop.call_later(remaining_s or 0.0, self._end_timer, prompt)
            self._timers[prompt] = read, timer
        else:
            task = loop.create_task(self._wait(read, read.response, prompt))
            self._tasks.add(task)
            # Not in `_wait`, which never runs if it is cancelled at once.
            task.add_done_callback(functools.partial(self._end_task, read, prompt))
        return prompt

    def clear(self) -> None:
        """Forget the tasks and timers of an event loop that has ended."""
        self._tasks.clear()
        self._timers.clear()

    async def aclose(self) -> None:
        """Stop waiting, and close the connections."""
        for prompt in tuple(self._timers):
            self._end_timer(prompt)
        # Tasks of another event loop, one that has ended, can't be awaited here.
        loop = asyncio.get_running_loop()
        tasks = {task for task in self._tasks if task.get_loop() is loop}
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @staticmethod
    def report(error: CallTimeout, prompt: AbandonedPrompt) -> None:
        """Say in the error of a call that the engine continues to read its prompt."""
        error.is_still_reading, error.reading_s = True, prompt.remaining_s
        size = "" if prompt.tokens is None else f" of about {prompt.tokens:,} tokens"
        remaining_s = prompt.remaining_s
        duration = "" if remaining_s is None else f", for about {remaining_s:.1f} s"
        error.message += f"; the engine reads the prompt{size} to its end{duration}"
        error.hint = f"It can't be stopped, so the call is not retried. {error.hint}"

    async def _wait(self, read: AbandonedRead, response: Response, prompt: AbandonedPrompt) -> None:
        remaining_s = prompt.remaining_s
        limit_s = MAX_READ_S if remaining_s is None else max(MIN_READ_S, SLOWDOWN * remaining_s)
        silence_s = SILENCE_S if read.has_keep_alives else limit_s
        try:
            async with asyncio.timeout(limit_s):
                await _wait_for_token(response, read.decoder, silence_s)
        except TimeoutError:
            log.warning("%s has neither read an abandoned prompt nor failed", self._limiter.service)
        except FoundryError as error:
            log.debug("an abandoned prompt ended with an error: %s", error)
        # Other calls would have slowed it down.
        if read.decoder.chunk_count and read.last_slot == self._limiter.acquired:
            duration_s = asyncio.get_running_loop().time() - read.sent_at
            read.reading.record(read.size, None, duration_s)

    def _end(self, read: AbandonedRead, prompt: AbandonedPrompt) -> None:
        self._limiter.abandoned.discard(prompt)
        read.release()

    def _end_timer(self, prompt: AbandonedPrompt) -> None:
        read, timer = self._timers.pop(prompt)
        timer.cancel()
        self._end(read, prompt)

    def _end_task(
        self, read: AbandonedRead, prompt: AbandonedPrompt, task: asyncio.Task[None]
    ) -> None:
        self._tasks.discard(task)
        if read.response is not None:
            read.response.close()
        self._end(read, prompt)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the wait for an abandoned prompt failed", exc_info=error)


async def _wait_for_token(response: Response, decoder: Decoder[Any, Any], silence_s: float) -> None:
    while not (decoder.chunk_count or decoder.done):
        async with asyncio.timeout(silence_s):
            block = await response.read()
        if not block:
            return
        for _ in decoder.feed(block):
            pass  # a decoder is a generator, which works only while it is read
