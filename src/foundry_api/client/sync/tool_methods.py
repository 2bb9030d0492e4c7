"""`SyncToolMethods`, written by `python3 dev.py generate` from client/tools.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from typing import Any, Unpack

    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.client.sync.background import BackgroundLoop
    from foundry_api.core.options import CompletionOptions
    from foundry_api.tools.definition import ToolLike
    from foundry_api.tools.executor import OnError
    from foundry_api.tools.results import ToolResult, ToolRun
    from foundry_api.types.messages import Chunk, Message

__all__ = ["SyncToolMethods"]


class SyncToolMethods:
    """What a client says to models that call tools."""

    _loop: BackgroundLoop
    _async: FoundryAPIClient

    def run_tools(
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

            run = client.run("How late is it in Bern?", [clock])
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
        return self._loop.run(
            lambda: self._async.run_tools(
                messages,
                tools,
                max_turns=max_turns,
                parallel=parallel,
                tool_timeout=tool_timeout,
                on_error=on_error,
                **options,
            )
        )

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
    ) -> Generator[Chunk | ToolResult | ToolRun]:
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
        return self._loop.iterate(
            lambda: self._async.stream_run_tools(
                messages,
                tools,
                max_turns=max_turns,
                parallel=parallel,
                tool_timeout=tool_timeout,
                on_error=on_error,
                **options,
            )
        )
