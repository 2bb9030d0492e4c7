"""Run the tool calls of a model until it answers without one."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

import msgspec

from foundry_api.tools.definition import require_callable
from foundry_api.tools.errors import MaxTurnsExceeded, ToolFailed
from foundry_api.tools.executor import ToolExecutor, ToolLimits
from foundry_api.tools.results import ToolResult, ToolRun
from foundry_api.types.errors import ToolCallError
from foundry_api.types.messages import Message, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from foundry_api.core.cache.calls import CachedCall
    from foundry_api.core.call import CallRequest
    from foundry_api.core.chat import ChatCall
    from foundry_api.tools.definition import Tool, ToolLike
    from foundry_api.types.messages import ChatRequest, Chunk, Completion

__all__ = ["ToolLoop", "make_tool_loop"]

_CORRECTION_PROMPT = (
    "Your call of a tool could not be read: {reason}. Write it again, as valid JSON."
)


def make_tool_loop(
    call: Callable[[CallRequest[ChatRequest]], ChatCall | CachedCall],
    make_request: Callable[[Sequence[Tool]], CallRequest[ChatRequest]],
    tools: Sequence[ToolLike],
    limits: ToolLimits,
) -> ToolLoop:
    """Validate the tools and return the loop."""
    callables = require_callable(tools)
    return ToolLoop(
        call,
        make_request(list(callables.values())),
        ToolExecutor(callables, limits, time.monotonic),
    )


class ToolLoop:
    """Sends a request, executes the tool calls, and repeats with their results.

    `call` makes one call of the model. The deadline of `request` applies to the whole loop.
    """

    def __init__(
        self,
        call: Callable[[CallRequest[ChatRequest]], ChatCall | CachedCall],
        request: CallRequest[ChatRequest],
        executor: ToolExecutor,
    ) -> None:
        self._call = call
        self._request = request
        self._executor = executor
        self._limits = executor.limits
        self._messages = request.request.messages
        self._calls: tuple[ToolResult, ...] = ()
        self._turns = 0
        self._usage = Usage()

    async def run(self) -> ToolRun:
        """Return the finished run."""
        while True:
            call = self._make_next_call()
            try:
                completion = await call.result()
            except ToolCallError as error:
                self._request_correction(error)
                continue
            if await self._execute_calls(completion) is None:
                return self._make_run(completion)

    async def stream(self) -> AsyncGenerator[Chunk | ToolResult | ToolRun]:
        """Yield the chunks of each answer, then its tool results, and the finished run last."""
        while True:
            call = self._make_next_call()
            try:
                async with contextlib.aclosing(call.chunks()) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except ToolCallError as error:
                self._request_correction(error)
                continue
            completion = call.outcome
            results = await self._execute_calls(completion)
            if results is None:
                yield self._make_run(completion)
                return
            for result in results:
                yield result

    def _make_next_call(self) -> ChatCall | CachedCall:
        self._turns += 1
        request = msgspec.structs.replace(self._request.request, messages=self._messages)
        if self._turns > 1 and request.tool_choice != "none":
            # A model that had to call a tool on every turn would never answer.
            request = msgspec.structs.replace(request, tool_choice=None)
        return self._call(msgspec.structs.replace(self._request, request=request))

    async def _execute_calls(self, completion: Completion[None]) -> tuple[ToolResult, ...] | None:
        """Execute the tool calls of an answer. Return None if it has none."""
        self._usage = Usage(
            self._usage.prompt_tokens + completion.usage.prompt_tokens,
            self._usage.completion_tokens + completion.usage.completion_tokens,
            self._usage.total_tokens + completion.usage.total_tokens,
        )
        if completion.content.strip() or completion.tool_calls:
            message = Message("assistant", completion.content, completion.tool_calls)
            self._messages += (message,)
        if not completion.tool_calls:
            return None
        if self._turns >= self._limits.max_turns:
            names = ", ".join(call.function.name for call in completion.tool_calls)
            raise MaxTurnsExceeded(
                f"the model still calls {names} after {self._turns} turns",
                run=self._make_run(completion),
            ).with_context(model=completion.model, service=completion.service)
        deadline = self._request.deadline
        try:
            async with asyncio.timeout_at(None if deadline.at == math.inf else deadline.at):
                results = await self._executor.execute(completion.tool_calls, self._turns)
        except TimeoutError as error:
            raise deadline.make_error("calling tools") from error
        self._calls += results
        self._messages += tuple(
            Message("tool", result.content, tool_call_id=result.call.id) for result in results
        )
        failed = next((result for result in results if result.error is not None), None)
        if failed is not None and self._limits.on_error != "return":
            raise ToolFailed(
                failed.content.removeprefix("Error: ").rstrip("."),
                call=failed.call,
                run=self._make_run(completion),
            ).with_context(model=completion.model, service=completion.service) from failed.error
        return results

    def _request_correction(self, error: ToolCallError) -> None:
        """Ask the model to write an invalid tool call again, or raise the error."""
        if (
            self._limits.on_error == "raise"
            or not error.text
            or self._turns >= self._limits.max_turns
        ):
            raise error
        assistant_text = f"{error.partial}{error.text}"
        correction = Message(
            "user", _CORRECTION_PROMPT.format(reason=error.message.rpartition(": ")[2])
        )
        self._messages += (Message("assistant", assistant_text), correction)

    def _make_run(self, completion: Completion[None]) -> ToolRun:
        return ToolRun(
            completion=completion,
            messages=self._messages,
            calls=self._calls,
            turns=self._turns,
            usage=self._usage,
        )
