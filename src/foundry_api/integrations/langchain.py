"""LangChain's chat model: `pip install foundry-api[langchain]`.

from foundry_api.integrations.langchain import ChatFoundryLocal

model = ChatFoundryLocal(model="demo", temperature=0)
print(model.invoke("What is the capital of France?").text)
"""

from __future__ import annotations

from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import langsmith.run_helpers
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import context, langchain, stdout
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from foundry_api.client.client import FoundryAPIClient
from foundry_api.client.sync import FoundryClient
from foundry_api.integrations.client_cache import LoopClientCache
from foundry_api.integrations.langchain_messages import (
    add_metadata,
    get_parsed,
    to_ai_chunk,
    to_ai_message,
    to_definition,
    to_messages,
    to_response_model,
    to_tool_choice,
    with_raw,
)
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        CallbackManagerForLLMRun,
    )
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool

    from foundry_api.core.options import ChatOptions

__all__ = ["ChatFoundryLocal"]

# LangChain imports these only in the first call. If several threads make it at once, one of them
# may find a module that is half initialized.
_ = langsmith.run_helpers, context, langchain, stdout


class ChatFoundryLocal(BaseChatModel):
    """A LangChain chat model for Microsoft Foundry Local.

    The first call finds a running service or starts an engine. Blocking calls use a
    `FoundryClient`, async calls a `FoundryAPIClient`. Programs that use both should start the
    service with `foundry-api up`, so that both use the same one. Failed calls raise the errors of
    this package.

    Attributes:
        model: Alias, id, or id without version; by default `FOUNDRY_MODEL`, or phi-4-mini.
        temperature: 0 to 2; by default the model's own.
        max_tokens: Maximum length of the answer in tokens; by default 2048, or what fits.
        top_p: 0 to 1; by default the model's own.
        seed: Makes sampling repeatable if the engine supports it.
        stop: Up to four strings that end the answer.
        timeout: Seconds without a token before a call fails, or `auto`; by default
            `FOUNDRY_TIMEOUT`, or 30.
        deadline: Seconds for a complete call; by default `FOUNDRY_DEADLINE`, or none.
        streaming: Whether callbacks receive every token, also of `invoke`.
        max_retries: Further attempts after a failed one; by default `FOUNDRY_RETRIES`, or 3.
        base_url: Address of a service; by default `FOUNDRY_BASE_URL`, or a service is found or
            started.
        api_key: Bearer token for `base_url`; by default `FOUNDRY_API_KEY`.
        client: Client for blocking calls; by default the model creates one and closes it.
        async_client: Client for async calls, on one event loop at a time; by default the model
            creates one per event loop.
    """

    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    timeout: float | Literal["auto"] | None = None
    deadline: float | None = None
    streaming: bool = False
    max_retries: int | None = None
    base_url: str | None = None
    api_key: SecretStr | None = None
    client: FoundryClient | None = Field(default=None, exclude=True)
    async_client: FoundryAPIClient | None = Field(default=None, exclude=True)
    _own_async_clients: LoopClientCache = PrivateAttr(default_factory=LoopClientCache)

    def close(self) -> None:
        """Close the blocking client, unless it was passed in."""
        if self.client is None:
            self._sync_client.close()

    async def aclose(self) -> None:
        """Close the async clients that the model created."""
        await self._own_async_clients.aclose()

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools to the model.

        Args:
            tools: Anything that LangChain accepts as a tool.
            tool_choice: `auto` (default), `none`, `any`, `required` or True for at least one call,
                or the name of the tool to call, also in OpenAI's form.
            kwargs: Further options of every call.

        Returns:
            A model that may call the tools.
        """
        definitions = [to_definition(tool) for tool in tools]
        return self.bind(tools=definitions, tool_choice=to_tool_choice(tool_choice), **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Make the model return values of a type, like `response_model` of `complete`.

        Args:
            schema: A pydantic model, a TypedDict, a dataclass, a msgspec Struct, a JSON schema, or
                a function definition in OpenAI's form.
            include_raw: Whether to return a dict with `raw`, `parsed` and `parsing_error`. Without
                it, calls raise `StructuredOutputError` if no answer is valid.
            kwargs: `method` and `strict` are accepted and ignored: answers are always validated,
                and the service enforces the schema if it can.

        Returns:
            A runnable that returns the values.

        Raises:
            InvalidRequest: `kwargs` has another argument.
        """
        if unknown := sorted(kwargs.keys() - {"method", "strict"}):
            raise InvalidRequest(f"{unknown[0]} is not an argument here", field=unknown[0])
        model = self.bind(
            response_model=to_response_model(schema),
            ls_structured_output_format=add_metadata(schema),
        )
        return with_raw(model) if include_raw else model | RunnableLambda(get_parsed)

    @property
    def _llm_type(self) -> str:
        return "foundry-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self._model_name, **self._model_arguments, "base_url": self.base_url}

    @property
    def _model_name(self) -> str:
        return self.model or self._sync_client.settings.model

    @property
    def _model_arguments(self) -> dict[str, Any]:
        names = ("temperature", "max_tokens", "top_p", "seed", "stop", "timeout", "deadline")
        arguments = {name: getattr(self, name) for name in ("model", *names)}
        return {name: value for name, value in arguments.items() if value is not None}

    @cached_property
    def _sync_client(self) -> FoundryClient:
        return self.client or FoundryClient(self.base_url, **self._connection_arguments)

    async def _get_async_client(self) -> FoundryAPIClient:
        if self.async_client is not None:
            return self.async_client
        return await self._own_async_clients.get(
            lambda: FoundryAPIClient(self.base_url, **self._connection_arguments)
        )

    @property
    def _connection_arguments(self) -> dict[str, Any]:
        key = None if self.api_key is None else self.api_key.get_secret_value()
        return {"api_key": key, "max_retries": self.max_retries}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "foundry-local"
        params.setdefault("ls_model_name", self._model_name)
        return params

    def _make_options(self, stop: list[str] | None, extra: dict[str, Any]) -> ChatOptions:
        options: Any = {**self._model_arguments, **extra, **({"stop": stop} if stop else {})}
        return cast("ChatOptions", options)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        answer = self._sync_client.chat(to_messages(messages), **self._make_options(stop, kwargs))
        return ChatResult(generations=[ChatGeneration(message=to_ai_message(answer))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        client = await self._get_async_client()
        answer = await client.chat(to_messages(messages), **self._make_options(stop, kwargs))
        return ChatResult(generations=[ChatGeneration(message=to_ai_message(answer))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        calls = 0
        for chunk in self._sync_client.stream_chat(
            to_messages(messages), **self._make_options(stop, kwargs)
        ):
            piece = ChatGenerationChunk(message=to_ai_chunk(chunk, calls))
            calls += len(chunk.tool_calls)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.content, chunk=piece)
            yield piece

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        calls = 0
        client = await self._get_async_client()
        chunks = client.stream_chat(to_messages(messages), **self._make_options(stop, kwargs))
        async with aclosing(chunks):
            async for chunk in chunks:
                piece = ChatGenerationChunk(message=to_ai_chunk(chunk, calls))
                calls += len(chunk.tool_calls)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.content, chunk=piece)
                yield piece
