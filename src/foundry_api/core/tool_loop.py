"""A conversation in which the model calls tools, until it answers without."""

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
    from foundry_api.tools.executor import OnError
    from foundry_api.types.messages import ChatRequest, Chunk, Completion

__all__ = ["ToolLoop", "make_tool_loop"]

_UNREADABLE_CALL = "Your call of a tool could not be read: {reason}. Write it again, as valid JSON."


def make_tool_loop(
    call: Callable[[CallRequest[ChatRequest]], ChatCall | CachedCall],
    make_request: Callable[[Sequence[Tool]], CallRequest[ChatRequest]],
    tools: Sequence[ToolLike],
    limits: tuple[int, int, float, OnError],
) -> ToolLoop:
    """A conversation, with everything checked that its caller gave.

    Args:
        call: A call of the model.
        make_request: What the caller ordered, with these tools.
        tools: As the caller gave them.
        limits: Rounds, parallel calls, seconds of a call, and what becomes of errors.

    Raises:
        InvalidRequest: An argument is at fault; nothing was sent.
    """
    max_turns, parallel, tool_timeout, on_error = limits
    bounds = ToolLimits(
        max_turns=max_turns, parallel=parallel, tool_timeout=tool_timeout, on_error=on_error
    )
    callables = require_callable(tools)
    return ToolLoop(
        call,
        make_request(list(callables.values())),
        ToolExecutor(callables, bounds, time.monotonic),
    )


class ToolLoop:
    """Asks the model, calls what it wants, and asks again with the results.

    The tool choice holds for the first round alone, unless it is `none`: a model that has to call a
    tool in each would never answer.

    Args:
        call: A call of the model.
        order: What the caller ordered. Its deadline bounds the whole.
        caller: Calls the tools.
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
        """The run when it is over."""
        while True:
            call = self._next_call()
            try:
                completion = await call.result()
            except ToolCallError as error:
                self._report_unreadable(error)
                continue
            if await self._execute_calls(completion) is None:
                return self._make_run(completion)

    async def stream(self) -> AsyncGenerator[Chunk | ToolResult | ToolRun]:
        """Every answer in pieces, the results of the calls between them, and the run at the end."""
        while True:
            call = self._next_call()
            try:
                async with contextlib.aclosing(call.chunks()) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except ToolCallError as error:
                self._report_unreadable(error)
                continue
            completion = call.outcome
            results = await self._execute_calls(completion)
            if results is None:
                yield self._make_run(completion)
                return
            for result in results:
                yield result

    def _next_call(self) -> ChatCall | CachedCall:
        self._turns += 1
        request = msgspec.structs.replace(self._request.request, messages=self._messages)
        if self._turns > 1 and request.tool_choice != "none":
            request = msgspec.structs.replace(request, tool_choice=None)
        return self._call(msgspec.structs.replace(self._request, request=request))

    async def _execute_calls(self, completion: Completion[None]) -> tuple[ToolResult, ...] | None:
        """The results of the calls that an answer wants; None where it wants none.

        Raises:
            ToolFailed: One failed, and the model is not to be told.
            MaxTurnsExceeded: The model may not be asked again.
        """
        self._usage = _add_usage(self._usage, completion.usage)
        self._add_answer(completion)
        if not completion.tool_calls:
            return None
        if self._turns >= self._limits.max_turns:
            names = ", ".join(call.function.name for call in completion.tool_calls)
            raise MaxTurnsExceeded(
                f"the model was asked {self._turns} times and still wants to call {names}",
                run=self._make_run(completion),
            ).with_context(model=completion.model, service=completion.service)
        results = await self._within_deadline(completion)
        self._calls += results
        self._messages += tuple(
            Message("tool", result.content, tool_call_id=result.call.id) for result in results
        )
        self._raise_failed(results, completion)
        return results

    async def _within_deadline(self, completion: Completion[None]) -> tuple[ToolResult, ...]:
        deadline = self._request.deadline
        scope = asyncio.timeout_at(None if deadline.at == math.inf else deadline.at)
        try:
            async with scope:
                return await self._executor.execute(completion.tool_calls, self._turns)
        except TimeoutError as error:
            raise deadline.exceeded("calling tools") from error

    def _raise_failed(self, results: tuple[ToolResult, ...], completion: Completion[None]) -> None:
        failed = next((result for result in results if result.error is not None), None)
        if failed is None or self._limits.on_error == "return":
            return
        raise ToolFailed(
            failed.content.removeprefix("Error: ").rstrip("."),
            call=failed.call,
            run=self._make_run(completion),
        ).with_context(model=completion.model, service=completion.service) from failed.error

    def _report_unreadable(self, error: ToolCallError) -> None:
        """Let the model write a call again that it wrote wrongly, if it may be asked again."""
        if (
            self._limits.on_error == "raise"
            or not error.text
            or self._turns >= self._limits.max_turns
        ):
            raise error
        assistant_text = f"{error.partial}{error.text}"
        correction = Message(
            "user", _UNREADABLE_CALL.format(reason=error.message.rpartition(": ")[2])
        )
        self._messages += (Message("assistant", assistant_text), correction)

    def _add_answer(self, completion: Completion[None]) -> None:
        if completion.content.strip() or completion.tool_calls:
            message = Message("assistant", completion.content, completion.tool_calls)
            self._messages += (message,)

    def _make_run(self, completion: Completion[None]) -> ToolRun:
        return ToolRun(
            completion=completion,
            messages=self._messages,
            calls=self._calls,
            turns=self._turns,
            usage=self._usage,
        )


def _add_usage(first: Usage, second: Usage) -> Usage:
    return Usage(
        first.prompt_tokens + second.prompt_tokens,
        first.completion_tokens + second.completion_tokens,
        first.total_tokens + second.total_tokens,
    )
