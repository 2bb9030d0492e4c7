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
    """Chat methods that run tools."""

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
        """Chat with a model that may call tools, run the tools, and return the final answer.

            def clock(city: str) -> str:
                ...

            run = await client.run_tools("What time is it in Bern?", [clock])
            run.content, run.calls

        Failed tool calls are reported to the model, which may try again: unknown tools, invalid
        arguments, exceptions and time-outs. Plain functions run in a thread, coroutine functions
        on the event loop. `tool_choice` applies to the first turn, `deadline` to the whole run.

        Args:
            messages: A prompt, or the messages so far, oldest first.
            tools: Typed functions, or `Tool`s.
            max_turns: Maximum number of requests to the model.
            parallel: How many tool calls of one turn run at once.
            tool_timeout: Maximum seconds for one tool call.
            on_error: `return` errors to the model (default), or `raise` them.
            options: See `CompletionOptions`.

        Raises:
            ToolDefinitionError: A function cannot be described to the model; nothing was sent.
            MaxTurnsExceeded: The model still called tools after `max_turns`; `.run` has the run.
            ToolFailed: A tool call failed, and `on_error` is `raise`.
            ToolCallError: A tool call of the model cannot be parsed.
            FoundryError: As in `complete`.
        """
        loop = self._make_tool_loop(
            messages,
            tools,
            options,
            max_turns=max_turns,
            parallel=parallel,
            tool_timeout=tool_timeout,
            on_error=on_error,
        )
        return await loop.run()

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
        """Stream a run with tools: the chunks of every answer, every tool's result, then the run.

        Args:
            messages: As in `run_tools`.
            tools: As in `run_tools`.
            max_turns: As in `run_tools`.
            parallel: As in `run_tools`.
            tool_timeout: As in `run_tools`.
            on_error: As in `run_tools`.
            options: See `CompletionOptions`.

        Raises:
            FoundryError: As in `run_tools`; for invalid arguments at once, else while iterating.
        """
        loop = self._make_tool_loop(
            messages,
            tools,
            options,
            max_turns=max_turns,
            parallel=parallel,
            tool_timeout=tool_timeout,
            on_error=on_error,
        )
        return loop.stream()

    def _make_tool_loop(
        self,
        messages: str | Iterable[Message | Mapping[str, Any]],
        tools: Sequence[ToolLike],
        options: CompletionOptions,
        **limits: Any,
    ) -> ToolLoop:
        # Most programs call no tools.
        from foundry_api.core.tool_loop import make_tool_loop  # noqa: PLC0415
        from foundry_api.tools.executor import ToolLimits  # noqa: PLC0415

        is_prompt = isinstance(messages, str)
        turns = prompt_to_messages(messages) if isinstance(messages, str) else messages

        def build_request(known: Sequence[Tool]) -> CallRequest[ChatRequest]:
            return self._build_request(turns, {**options, "tools": known}, is_validated=is_prompt)

        return make_tool_loop(self._new_call, build_request, tools, ToolLimits(**limits))

    @abstractmethod
    def _build_request(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        options: ChatOptions,
        constraint: Constraint | None = None,
        *,
        is_validated: bool = False,
    ) -> CallRequest[ChatRequest]:
        """Validate the arguments of a call; `is_validated` says that its messages are valid."""

    @abstractmethod
    def _new_call(self, request: CallRequest[ChatRequest]) -> ChatCall | CachedCall:
        """Return the call for a request; it has not started."""
