"""What a batch is made of: requests that are read, and answers that are written."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from foundry_api.errors import InvalidRequest
from foundry_api.results import Result

__all__ = [
    "CHAT_URL",
    "EMBEDDINGS_URL",
    "RESPONSES_URL",
    "URLS",
    "BatchRequest",
    "BatchUrl",
    "Finished",
    "Line",
    "Work",
    "route_of",
]

BatchUrl = Literal["/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
CHAT_URL: BatchUrl = "/v1/chat/completions"
RESPONSES_URL: BatchUrl = "/v1/responses"
EMBEDDINGS_URL: BatchUrl = "/v1/embeddings"
URLS: tuple[BatchUrl, ...] = (CHAT_URL, RESPONSES_URL, EMBEDDINGS_URL)
_ROUTES: dict[str, BatchUrl] = {
    **{url: url for url in URLS},
    **{url.removeprefix("/v1"): url for url in URLS},
}


def route_of(url: object) -> BatchUrl:
    """The route that a request names. Azure's batch files leave `/v1` out.

    Raises:
        InvalidRequest: There is no such route.
    """
    route = _ROUTES.get(url) if isinstance(url, str) else None
    if route is None:
        raise InvalidRequest(f"url is {url!r}, but must be one of {', '.join(URLS)}", field="url")
    return route


class BatchRequest(Result, msgspec.Struct, frozen=True, kw_only=True):
    """One request of a batch, in the form of OpenAI's batch files.

    Attributes:
        custom_id: Names it; no other request of the batch has the same.
        body: What is asked, as the route takes it.
        url: The route.
        method: That of HTTP; there is one.
    """

    custom_id: str
    body: dict[str, Any]
    url: BatchUrl = CHAT_URL
    method: Literal["POST"] = "POST"


class Line(msgspec.Struct, frozen=True):
    """One line or row of an input as it was read, before it is understood.

    Attributes:
        index: Its place among the input's requests, from 0.
        number: Its place in the file as people count it, from 1: of lines, blank ones included;
            of rows, without the header.
        digest: Of its content, and of what the input's options make of it: 63 bits. Another
            content has another one.
        raw: What was read.
    """

    index: int
    number: int
    digest: int
    raw: Any


class Work(msgspec.Struct, frozen=True):
    """A line that is understood, for an engine to answer."""

    line: Line
    request: BatchRequest


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A line that is answered, or failed for good.

    Attributes:
        index: The line's.
        digest: The line's.
        output: The line of the output or error file: OpenAI's form, without an end of line.
        failed: Whether it belongs into the error file.
        at: When, in seconds since the epoch.
        model: The id of the model that answered, or the name that was asked for.
        duration_s: From its first attempt to its end, queueing in the client included.
        queued_s: Of that, waiting for its turn in the client.
        time_to_first_token_s: None without any text.
        prompt_tokens: As the service counted them.
        completion_tokens: As the service counted them.
        attempts: HTTP requests made for it.
        shared: Whether it took the answer of an identical request, or one from the cache.
        code: Of a failed one, the name of the error's type.
    """

    index: int
    digest: int
    output: bytes
    failed: bool
    at: float
    model: str = ""
    duration_s: float = 0.0
    queued_s: float = 0.0
    time_to_first_token_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0
    shared: bool = False
    code: str = ""
