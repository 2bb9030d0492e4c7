"""A conversation in which the model calls tools, until it answers without."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING

import msgspec

from foundry_api.tools.definition import runnable
from foundry_api.tools.executor import ToolCaller, ToolLimits
from foundry_api.tools.results import ToolResult, ToolRun
from foundry_api.types.errors import ToolCallError, ToolFailed, ToolRoundsExceeded
from foundry_api.types.messages import Message, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from foundry_api.core.cache.calls import CachedCall
    from foundry_api.core.call import CallRequest
    from foundry_api.core.chat import ChatCall
    from foundry_api.tools.definition import Tool, ToolLike
    from foundry_api.tools.executor import OnError
    from foundry_api.types.messages import ChatRequest, Chunk, Completion

__all__ = ["ToolLoop", "tool_loop"]

_UNREADABLE = "Your call of a tool could not be read: {reason}. Write it again, as valid JSON."


def tool_loop(
    call: Callable[[CallRequest[ChatRequest]], ChatCall | CachedCall],
    order: Callable[[Sequence[Tool]], CallRequest[ChatRequest]],
    tools: Sequence[ToolLike],
    limits: tuple[int, int, float, OnError],
) -> ToolLoop:
    """A conversation, with everything checked that its caller gave.

    Args:
        call: A call of the model.
        order: What the caller ordered, with these tools.
        tools: As the caller gave them.
        limits: Rounds, parallel calls, seconds of a call, and what becomes of errors.

    Raises:
        InvalidRequest: An argument is at fault; nothing was sent.
    """
    max_rounds, parallel, tool_timeout, on_error = limits
    bounds = ToolLimits(
        max_rounds=max_rounds, parallel=parallel, tool_timeout=tool_timeout, on_error=on_error
    )
    known = runnable(tools)
    return ToolLoop(call, order(list(known.values())), ToolCaller(known, bounds, time.monotonic))


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
        order: CallRequest[ChatRequest],
        caller: ToolCaller,
    ) -> None:
        self._call = call
        self._order = order
        self._caller = caller
        self._limits = caller.limits
        self._messages = order.request.messages
        self._calls: tuple[ToolResult, ...] = ()
        self._rounds = 0
        self._usage = Usage()

    async def whole(self) -> ToolRun:
        """The run when it is over."""
        while True:
            call = self._next()
            try:
                completion = await call.result()
            except ToolCallError as error:
                self._tell(error)
                continue
            if await self._answered(completion) is None:
                return self._run(completion)

    async def pieces(self) -> AsyncGenerator[Chunk | ToolResult | ToolRun]:
        """Every answer in pieces, the results of the calls between them, and the run at the end."""
        while True:
            call = self._next()
            try:
                async with contextlib.aclosing(call.chunks()) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except ToolCallError as error:
                self._tell(error)
                continue
            completion = call.outcome
            results = await self._answered(completion)
            if results is None:
                yield self._run(completion)
                return
            for result in results:
                yield result

    def _next(self) -> ChatCall | CachedCall:
        self._rounds += 1
        request = msgspec.structs.replace(self._order.request, messages=self._messages)
        if self._rounds > 1 and request.tool_choice != "none":
            request = msgspec.structs.replace(request, tool_choice=None)
        return self._call(msgspec.structs.replace(self._order, request=request))

    async def _answered(self, completion: Completion[None]) -> tuple[ToolResult, ...] | None:
        """The results of the calls that an answer wants; None where it wants none.

        Raises:
            ToolFailed: One failed, and the model is not to be told.
            ToolRoundsExceeded: The model may not be asked again.
        """
        self._usage = _sum(self._usage, completion.usage)
        self._say(completion)
        if not completion.tool_calls:
            return None
        if self._rounds >= self._limits.max_rounds:
            names = ", ".join(call.function.name for call in completion.tool_calls)
            raise ToolRoundsExceeded(
                f"the model was asked {self._rounds} times and still wants to call {names}",
                run=self._run(completion),
            ).located(model=completion.model, service=completion.service)
        results = await self._in_time(completion)
        self._calls += results
        self._messages += tuple(
            Message("tool", result.content, tool_call_id=result.call.id) for result in results
        )
        self._check(results, completion)
        return results

    async def _in_time(self, completion: Completion[None]) -> tuple[ToolResult, ...]:
        deadline = self._order.deadline
        scope = asyncio.timeout_at(None if deadline.at == math.inf else deadline.at)
        try:
            async with scope:
                return await self._caller.answered(completion.tool_calls, self._rounds)
        except TimeoutError as error:
            raise deadline.exceeded("calling tools") from error

    def _check(self, results: tuple[ToolResult, ...], completion: Completion[None]) -> None:
        failed = next((result for result in results if result.error is not None), None)
        if failed is None or self._limits.on_error == "tell":
            return
        raise ToolFailed(
            failed.content.removeprefix("Error: ").rstrip("."),
            call=failed.call,
            run=self._run(completion),
        ).located(model=completion.model, service=completion.service) from failed.error

    def _tell(self, error: ToolCallError) -> None:
        """Let the model write a call again that it wrote wrongly, if it may be asked again."""
        if (
            self._limits.on_error == "raise"
            or not error.text
            or self._rounds >= self._limits.max_rounds
        ):
            raise error
        said = f"{error.partial}{error.text}"
        wrong = Message("user", _UNREADABLE.format(reason=error.message.rpartition(": ")[2]))
        self._messages += (Message("assistant", said), wrong)

    def _say(self, completion: Completion[None]) -> None:
        if completion.content.strip() or completion.tool_calls:
            turn = Message("assistant", completion.content, completion.tool_calls)
            self._messages += (turn,)

    def _run(self, completion: Completion[None]) -> ToolRun:
        return ToolRun(
            completion=completion,
            messages=self._messages,
            calls=self._calls,
            rounds=self._rounds,
            usage=self._usage,
        )


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.total_tokens + other.total_tokens,
    )
