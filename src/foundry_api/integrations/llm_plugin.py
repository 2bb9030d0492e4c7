"""The plugin for `llm`: `pip install foundry-api[llm]`, then `llm -m foundry/demo "…"`.

It registers `demo`, the model of `FOUNDRY_MODEL`, and the registered and downloaded models of this
machine, each as `foundry/NAME`.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import llm
from llm.parts import StreamEvent, TextPart, ToolCallPart, ToolResultPart
from pydantic import Field

from foundry_api.engine.models.local_names import DEMO, list_local_names
from foundry_api.integrations.client_cache import LoopClientCache
from foundry_api.storage.paths import Paths
from foundry_api.types.errors import FoundryError
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from foundry_api import (
        ChatOptions,
        Chunk,
        Completion,
        FoundryAPIClient,
        FoundryClient,
        Message,
    )

__all__ = ["AsyncFoundryModel", "FoundryModel", "register_models"]

log = logging.getLogger("foundry_api")


class ClientCache:
    """The clients of all registered models. Each client is created on first use."""

    @cached_property
    def sync(self) -> FoundryClient:
        from foundry_api import FoundryClient  # noqa: PLC0415 - every `llm` imports all plugins

        return FoundryClient()

    async def get_async(self) -> FoundryAPIClient:
        from foundry_api import FoundryAPIClient  # noqa: PLC0415 - as above

        return await self.loop_clients.get(FoundryAPIClient)

    @cached_property
    def loop_clients(self) -> LoopClientCache:
        return LoopClientCache()


class FoundryModel(llm.Model):
    """A model of Foundry Local."""

    can_stream = True
    supports_schema = True
    supports_tools = True

    class Options(llm.Model.Options):
        """The options of `llm -o NAME VALUE`."""

        max_tokens: int | None = Field(
            default=None, ge=1, description="Maximum length of the answer in tokens"
        )
        temperature: float | None = Field(
            default=None, ge=0, le=2, description="0 (always the most likely token) to 2"
        )
        top_p: float | None = Field(
            default=None,
            gt=0,
            le=1,
            description="Sample from the most likely tokens with this total probability",
        )
        seed: int | None = Field(default=None, description="Make sampling repeatable")
        stop: str | list[str] | None = Field(default=None, description="Text that ends the answer")

    def __init__(self, name: str, clients: ClientCache) -> None:
        self.model_id = f"foundry/{name}"
        self._model_name = name
        self._clients = clients

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,  # noqa: FBT001 - the signature is llm's
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str | StreamEvent]:
        """Stream the answer. With a schema, return it when it is valid."""
        # `llm` joins the chunks if it does not stream, and the prompt has the history.
        del stream, conversation
        client, options = self._clients.sync, make_options(self._model_name, prompt)
        schema = cast("Any", prompt).schema
        if schema is not None:
            # Not streamed: an invalid answer is requested again.
            answer = client.chat(to_messages(prompt), response_model=schema, **options)
            yield from to_events(answer, response)
            return
        for chunk in client.stream_chat(to_messages(prompt), **options):
            yield from to_events(chunk, response)


class AsyncFoundryModel(llm.AsyncModel):
    """A model of Foundry Local, for programs with asyncio."""

    can_stream = True
    supports_schema = True
    supports_tools = True

    class Options(FoundryModel.Options):
        """The options of `FoundryModel`."""

    def __init__(self, name: str, clients: ClientCache) -> None:
        self.model_id = f"foundry/{name}"
        self._model_name = name
        self._clients = clients

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,  # noqa: FBT001 - the signature is llm's
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None,
    ) -> AsyncGenerator[str | StreamEvent, None]:
        """Stream the answer. With a schema, return it when it is valid."""
        del stream, conversation
        client, options = await self._clients.get_async(), make_options(self._model_name, prompt)
        schema = cast("Any", prompt).schema
        if schema is not None:
            answer = await client.chat(to_messages(prompt), response_model=schema, **options)
            for event in to_events(answer, response):
                yield event
            return
        async for chunk in client.stream_chat(to_messages(prompt), **options):
            for event in to_events(chunk, response):
                yield event


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Register the models of this machine with `llm`."""
    clients = ClientCache()
    for name in list_model_names():
        register(FoundryModel(name, clients), AsyncFoundryModel(name, clients))


def list_model_names() -> list[str]:
    """Return the names of the models, the most likely ones first."""
    # `llm` needs the names at every start, whichever model it uses. They are read from files,
    # without starting an engine, and an invalid setting or file must not make `llm` fail.
    model_names = [DEMO]
    try:
        settings = Settings.from_environment()
        paths = Paths.from_home(settings.home)
        model_names.append(settings.model)
        model_names += list_local_names(paths)
    except (FoundryError, OSError, ValueError) as error:
        log.warning("the models of Foundry Local cannot all be listed: %s", error)
    return list(dict.fromkeys(model_names))


def make_options(name: str, prompt: llm.Prompt) -> ChatOptions:
    from foundry_api import ToolDefinition  # noqa: PLC0415 - as above

    options: Any = {"model": name, **prompt.options.model_dump(exclude_none=True)}
    if prompt.tools:
        # Definitions, not functions: `llm` calls the tools.
        options["tools"] = [
            ToolDefinition(
                name=tool.name,
                description=tool.description or "",
                parameters=cast("Any", tool).input_schema,
            )
            for tool in prompt.tools
        ]
    return cast("ChatOptions", options)


def to_messages(prompt: llm.Prompt) -> list[Message]:
    """Convert the conversation, with its history."""
    return [item for message in prompt.messages for item in _convert_message(message)]


def _convert_message(message: llm.Message) -> Iterator[Message]:
    from foundry_api import FunctionCall, Message, ToolCall  # noqa: PLC0415 - as above

    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    for result in results:
        yield Message("tool", result.output, tool_call_id=result.tool_call_id)
    if results:
        return
    calls = tuple(
        ToolCall(part.tool_call_id or "", FunctionCall(part.name, json.dumps(part.arguments)))
        for part in message.parts
        if isinstance(part, ToolCallPart)
    )
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
    role: Any = message.role
    yield Message(role, text, tool_calls=calls)


def to_events(
    chunk: Chunk | Completion[Any], response: llm.Response | llm.AsyncResponse
) -> Iterator[StreamEvent]:
    """Convert an answer or a chunk; set tool calls, usage and model on the response."""
    if chunk.reasoning:
        yield StreamEvent(type="reasoning", chunk=chunk.reasoning)
    if chunk.content:
        yield StreamEvent(type="text", chunk=chunk.content)
    for call in chunk.tool_calls:
        name, arguments = call.function.name, call.function.arguments
        response.add_tool_call(llm.ToolCall(name, json.loads(arguments), tool_call_id=call.id))
        yield StreamEvent(type="tool_call_name", chunk=name, tool_call_id=call.id)
        yield StreamEvent(type="tool_call_args", chunk=arguments, tool_call_id=call.id)
    if chunk.usage is None:
        return
    response.input_tokens = chunk.usage.prompt_tokens
    response.output_tokens = chunk.usage.completion_tokens
    response.set_resolved_model(chunk.model)
    response.response_json = {"model": chunk.model, "finish_reason": chunk.finish_reason}
