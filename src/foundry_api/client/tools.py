"""Run a conversation in which the model calls tools."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from foundry_api.types.checks import prompt_to_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
    from typing import Unpack

    from foundry_api.core.cache.calls import CachedCall
    from foundry_api.core.call import CallRequest
    from foundry_api.core.chat import ChatCall
    from foundry_api.core.options import ChatOptions, CompletionOptions
    from foundry_api.core.tool_loop import ToolLoop
    from foundry_api.tools.definition import Tool, ToolLike
    from foundry_api.tools.executor import OnError
    from foundry_api.tools.results import ToolResult, ToolRun
    from foundry_api.types.messages import ChatRequest, Chunk, Constraint, Message

__all__ = ["ToolMethods"]


class ToolMethods(ABC):
    """What a client says to models that call tools."""

    async def run_tools(
        self,
        messages: str | Iterable[Message | Mapping[str, Any]],
        tools: Sequence[ToolLike],
        *,
        max_turns: int = 8,
        parallel: int = 4,
        tool_timeout: float = 30.0,
        on_error: OnError = "return",
        **options: Unpack[CompletionOptions],
    ) -> ToolRun:
        """The answer of a model that may call tools: they are called, and it is asked again.

            def clock(city: str) -> str:
                ...

            run = await client.run("How late is it in Bern?", [clock])
            run.content, run.calls

        A call that cannot be made or fails is told to the model, which may do better: wrong
        arguments, a tool that there is not, an exception, a call that took too long. A plain
        function runs in a thread, a coroutine function on the event loop. `tool_choice` holds for
        the first round, and `deadline` for all of it.

        Args:
            messages: A prompt, or the turns so far, oldest first.
            tools: Typed functions, or `Tool`s.
            max_turns: How often the model is asked at most.
            parallel: How many calls of a round run at once.
            tool_timeout: Seconds that one call may take.
            on_error: `return` (default), or `raise` for a call that fails.
            options: See `CompletionOptions`.

        Raises:
            ToolDefinitionError: A function cannot be described; nothing was sent.
            MaxTurnsExceeded: The model did not come to an end; `.run` has what it did.
            ToolFailed: A call failed, and `on_error` is `raise`.
            ToolCallError: The model called a tool in a way that cannot be read.
            FoundryError: As `complete`.
        """
        limits = (max_turns, parallel, tool_timeout, on_error)
        return await self._tool_loop(messages, tools, limits, options).run()

    def stream_run_tools(
        self,
        messages: str | Iterable[Message | Mapping[str, Any]],
        tools: Sequence[ToolLike],
        *,
        max_turns: int = 8,
        parallel: int = 4,
        tool_timeout: float = 30.0,
        on_error: OnError = "return",
        **options: Unpack[CompletionOptions],
    ) -> AsyncGenerator[Chunk | ToolResult | ToolRun]:
        """As `run_tools`, piece by piece: the chunks of every answer, each tool's result, the run.

        Args:
            messages: A prompt, or the turns so far, oldest first.
            tools: Typed functions, or `Tool`s.
            max_turns: How often the model is asked at most.
            parallel: How many calls of a round run at once.
            tool_timeout: Seconds that one call may take.
            on_error: `return` (default), or `raise` for a call that fails.
            options: See `CompletionOptions`.

        Raises:
            FoundryError: As `run_tools`; bad arguments at once, the rest while iterating.
        """
        limits = (max_turns, parallel, tool_timeout, on_error)
        return self._tool_loop(messages, tools, limits, options).stream()

    def _tool_loop(
        self,
        messages: str | Iterable[Message | Mapping[str, Any]],
        tools: Sequence[ToolLike],
        limits: tuple[int, int, float, OnError],
        options: CompletionOptions,
    ) -> ToolLoop:
        # Most programs call no tools.
        from foundry_api.core.tool_loop import make_tool_loop  # noqa: PLC0415

        is_prompt = isinstance(messages, str)
        turns = prompt_to_messages(messages) if isinstance(messages, str) else messages

        def order(known: Sequence[Tool]) -> CallRequest[ChatRequest]:
            return self._build_request(turns, {**options, "tools": known}, is_validated=is_prompt)

        return make_tool_loop(self._new_call, order, tools, limits)

    @abstractmethod
    def _build_request(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        options: ChatOptions,
        constraint: Constraint | None = None,
        *,
        is_validated: bool = False,
    ) -> CallRequest[ChatRequest]:
        """What the caller ordered, checked; the messages too, unless they were before."""

    @abstractmethod
    def _new_call(self, order: CallRequest[ChatRequest]) -> ChatCall | CachedCall:
        """A call for it."""
