"""A prompt that is too long: clients recognise the error by its code and its words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.types.errors import ContextOverflow
from gateway.shapes import check_shape

if TYPE_CHECKING:
    import aiohttp

    from foundry_api.gateway.gateway import Gateway

TEXT = "a " * 9000
MESSAGES = [{"role": "user", "content": TEXT}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": TEXT},
    "/v1/responses": {"input": TEXT},
}
# What LiteLLM, LangChain and others look for.
WORDS = re.compile(r"This model's maximum context length is (\d+) tokens\. However, .*(\d+) ")


async def post(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with http.post(path, json={"model": "demo", **body}) as response:
        assert response.status == 400
        return await response.json()


@pytest.mark.parametrize("options", [{}, {"stream": True}, {"max_tokens": 100}])
@pytest.mark.parametrize("path", BODIES)
async def test_it_has_the_words_of_openai(
    http: aiohttp.ClientSession, path: str, options: dict[str, Any]
) -> None:
    if "max_tokens" in options and path == "/v1/responses":
        options = {"max_output_tokens": 100}
    answer = await post(http, path, {**BODIES[path], **options})
    check_shape("error", answer)
    assert answer["error"]["code"] == "context_length_exceeded"
    assert WORDS.search(answer["error"]["message"]), answer


async def test_it_has_the_words_of_anthropic(http: aiohttp.ClientSession) -> None:
    answer = await post(http, "/v1/messages", {"messages": MESSAGES, "max_tokens": 100})
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"].startswith("prompt is too long: ")
    assert WORDS.search(answer["error"]["message"]), answer


async def test_the_client_knows_the_numbers_behind_a_gateway(gateway: Gateway) -> None:
    async with FoundryAPIClient(gateway.url, max_retries=0) as client:
        with pytest.raises(ContextOverflow) as caught:
            await client.complete(TEXT, model="demo")
    error = caught.value
    assert error.context_length is not None
    assert error.prompt_tokens is not None
    assert error.prompt_tokens > error.context_length
    assert error.max_tokens is None
