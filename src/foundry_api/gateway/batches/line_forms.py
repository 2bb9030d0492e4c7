"""The lines of OpenAI's and of Anthropic's batches: what answers them, and their results."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from foundry_api.batch.types import CHAT_URL, EMBEDDINGS_URL, RESPONSES_URL
from foundry_api.gateway.anthropic.errors import make_anthropic_error
from foundry_api.gateway.anthropic.messages import create_message
from foundry_api.gateway.errors import make_error_body
from foundry_api.gateway.files.batch_types import MESSAGES_URL
from foundry_api.gateway.openai.chat import create_chat_completion
from foundry_api.gateway.openai.embeddings import create_embeddings
from foundry_api.gateway.openai.responses import create_response

if TYPE_CHECKING:
    from foundry_api.gateway.errors import RequestError
    from foundry_api.gateway.routing import Handler

__all__ = ["FORMS", "LineForm", "Unfinished"]

# How a batch ended before a line of it was answered.
Unfinished = Literal["cancelled", "expired"]


class LineForm(Protocol):
    """How the lines of a batch are answered, and what becomes of them in its results."""

    @property
    def route(self) -> str:
        """The route of the batch, for metrics."""
        ...

    @property
    def handler(self) -> Handler:
        """Answers a line."""
        ...

    def prepare(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body that the handler gets."""
        ...

    def make_answer(self, custom_id: str, request_id: str, body: bytes) -> bytes:
        """Return the line of an answer."""
        ...

    def make_failure(self, custom_id: str, request_id: str, error: RequestError) -> bytes:
        """Return the line of a request that failed."""
        ...

    def make_unfinished(self, custom_id: str, ending: Unfinished) -> bytes:
        """Return the line of a request that was not answered before the batch ended."""
        ...


@dataclass(frozen=True, slots=True)
class OpenAIForm:
    """Lines of OpenAI's batches."""

    handler: Handler
    route: str = "/v1/batches"

    def prepare(self, body: dict[str, Any]) -> dict[str, Any]:
        # Else a large batch would push all other stored responses out.
        return {**body, "store": False} if self.handler is create_response else body

    def make_answer(self, custom_id: str, request_id: str, body: bytes) -> bytes:
        return self._make_line(custom_id, 200, request_id, body)

    def make_failure(self, custom_id: str, request_id: str, error: RequestError) -> bytes:
        return self._make_line(custom_id, error.status, request_id, make_error_body(error))

    def make_unfinished(self, custom_id: str, ending: Unfinished) -> bytes:
        message = (
            "This request could not be executed before the completion window expired."
            if ending == "expired"
            else "This request was not executed, as the batch was cancelled."
        )
        return msgspec.json.encode(
            {
                "id": _make_id(),
                "custom_id": custom_id,
                "response": None,
                "error": {"code": f"batch_{ending}", "message": message},
            }
        )

    def _make_line(self, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
        response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
        return msgspec.json.encode(
            {"id": _make_id(), "custom_id": custom_id, "response": response, "error": None}
        )


@dataclass(frozen=True, slots=True)
class AnthropicForm:
    """Lines of Anthropic's Message Batches."""

    handler: Handler
    route: str = "/v1/messages/batches"

    def prepare(self, body: dict[str, Any]) -> dict[str, Any]:
        return body

    def make_answer(self, custom_id: str, request_id: str, body: bytes) -> bytes:
        del request_id  # a message has no field for it
        return self._make_line(custom_id, {"type": "succeeded", "message": msgspec.Raw(body)})

    def make_failure(self, custom_id: str, request_id: str, error: RequestError) -> bytes:
        details = msgspec.json.decode(make_anthropic_error(error))
        result = {"type": "errored", "error": {**details, "request_id": request_id}}
        return self._make_line(custom_id, result)

    def make_unfinished(self, custom_id: str, ending: Unfinished) -> bytes:
        kind = "canceled" if ending == "cancelled" else "expired"
        return self._make_line(custom_id, {"type": kind})

    def _make_line(self, custom_id: str, result: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"custom_id": custom_id, "result": result})


FORMS: dict[str, LineForm] = {
    CHAT_URL: OpenAIForm(create_chat_completion),
    EMBEDDINGS_URL: OpenAIForm(create_embeddings),
    RESPONSES_URL: OpenAIForm(create_response),
    MESSAGES_URL: AnthropicForm(create_message),
}


def _make_id() -> str:
    return f"batch_req_{secrets.token_hex(12)}"
