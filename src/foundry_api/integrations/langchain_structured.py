"""What LangChain's `with_structured_output` is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.utils.function_calling import convert_to_json_schema

from foundry_api.errors import StructuredOutputError
from foundry_api.integrations.langchain_messages import PARSED

if TYPE_CHECKING:
    from langchain_core.language_models import LanguageModelInput

__all__ = ["parsed", "response_model", "traced", "with_raw"]


def response_model(schema: Any) -> Any:
    """The type or JSON schema of what LangChain calls a schema."""
    if isinstance(schema, type) or not hasattr(schema, "get"):
        return schema
    return schema.get("function", schema).get("parameters", schema)


def traced(schema: Any) -> dict[str, Any]:
    """What LangChain's tracers are told of a schema."""
    try:
        told: Any = convert_to_json_schema(schema)
    except (ValueError, TypeError):  # of a type that LangChain does not know
        told = repr(schema)
    return {"kwargs": {"method": "json_schema"}, "schema": told}


def parsed(message: BaseMessage) -> Any:
    """The value of an answer."""
    return message.additional_kwargs.get(PARSED)


def with_raw(model: Runnable[LanguageModelInput, AIMessage]) -> Runnable[LanguageModelInput, Any]:
    """The answer beside its value, and an answer that does not pass beside its error."""

    def call(asked: Any, config: RunnableConfig) -> dict[str, Any]:
        try:
            return _told(model.invoke(asked, config))
        except StructuredOutputError as error:
            return _failed(error)

    async def acall(asked: Any, config: RunnableConfig) -> dict[str, Any]:
        try:
            return _told(await model.ainvoke(asked, config))
        except StructuredOutputError as error:
            return _failed(error)

    return RunnableLambda(call, acall)


def _told(message: BaseMessage) -> dict[str, Any]:
    return {"raw": message, "parsed": parsed(message), "parsing_error": None}


def _failed(error: StructuredOutputError) -> dict[str, Any]:
    return {"raw": AIMessage(error.partial), "parsed": None, "parsing_error": error}
