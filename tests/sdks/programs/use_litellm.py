"""LiteLLM as a client.

Models are `openai/NAME`, or `anthropic/NAME` with the gateway's address without `/v1`.
"""

from __future__ import annotations

import json
import os
from typing import Any

# It asks a server on the internet for prices, unless configured to use its own copy.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import pydantic
from served import (
    ADA,
    ANSWER,
    CALCULATE_SCHEMA,
    HELLO,
    KEY,
    KEY_LIMITED,
    KEY_OF_ONE_MODEL,
    QUESTION,
    SPEECH,
    SUM,
    SUM_ANSWER,
    URL,
    URL_WITHOUT_SERVICE,
    WRONG_KEY,
    calculate,
)

CLIENT = "litellm"
LIMITS = "it turns every 403 into `APIError`"
ASK = [{"role": "user", "content": QUESTION}]
SERVED: Any = {"api_base": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
COLD: Any = {**SERVED, "temperature": 0}
CALCULATE: Any = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Evaluate an arithmetic expression.",
        "parameters": CALCULATE_SCHEMA,
    },
}


class Person(pydantic.BaseModel):
    born: int
    languages: list[str]
    name: str


def check_completion() -> None:
    """`completion`"""
    answer = litellm.completion("openai/demo", ASK, **COLD)
    assert answer.choices[0].message.content == ANSWER


async def check_acompletion() -> None:
    """`acompletion`"""
    answer = await litellm.acompletion("openai/demo", ASK, **COLD)
    assert answer.choices[0].message.content == ANSWER


def check_stream() -> None:
    """stream"""
    chunks = list(
        litellm.completion(
            "openai/demo", ASK, stream=True, stream_options={"include_usage": True}, **COLD
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert chunks[-1].usage.total_tokens > 0


def check_tools() -> None:
    """tools"""
    messages: list[Any] = [{"role": "user", "content": SUM}]
    message = litellm.completion("openai/demo", messages, tools=[CALCULATE], **COLD)
    message = message.choices[0].message
    messages.append(message)
    for call in message.tool_calls:
        result = str(calculate(**json.loads(call.function.arguments)))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = litellm.completion("openai/demo", messages, tools=[CALCULATE], **COLD)
    assert answer.choices[0].message.content == SUM_ANSWER


def check_response_format() -> None:
    """`response_format`"""
    answer = litellm.completion(
        "openai/scripted",
        [{"role": "user", "content": "say-json"}],
        response_format=Person,
        **SERVED,
    )
    assert Person.model_validate_json(answer.choices[0].message.content) == Person(**ADA)


def check_reasoning() -> None:
    """reasoning"""
    answer = litellm.completion(
        "openai/scripted", [{"role": "user", "content": "reason-aloud"}], **SERVED
    )
    assert answer.choices[0].message.reasoning_content


def check_text_completion() -> None:
    """`text_completion`"""
    answer = litellm.text_completion(
        model="text-completion-openai/scripted", prompt="say-hello", max_tokens=50, **SERVED
    )
    assert answer.choices[0].text == HELLO


def check_embedding() -> None:
    """`embedding`"""
    answer = litellm.embedding(model="openai/embedder", input=["one", "two"], **SERVED)
    assert len(answer.data) == 2


def check_responses() -> None:
    """`responses`"""
    answer = litellm.responses(model="openai/demo", input=QUESTION, **COLD)
    assert answer.output[0].content[0].text == ANSWER


def check_transcription() -> None:
    """`transcription`"""
    with (SPEECH / "paris.wav").open("rb") as file:
        answer = litellm.transcription(
            model="openai/transcriber", file=file, language="en", **SERVED
        )
    assert answer.text


def check_anthropic() -> None:
    """`anthropic/` models"""
    answer = litellm.completion(
        "anthropic/demo", ASK, api_base=URL, api_key=KEY, temperature=0, max_tokens=100
    )
    assert answer.choices[0].message.content == ANSWER


def check_errors() -> None:
    """error classes"""
    for error, changes in (
        (litellm.AuthenticationError, {"api_key": WRONG_KEY}),
        # It has a class for 403 and does not use it here.
        (litellm.APIError, {"api_key": KEY_OF_ONE_MODEL, "model": "openai/scripted"}),
        (litellm.NotFoundError, {"model": "openai/no-such-model"}),
        (litellm.BadRequestError, {"logprobs": True}),
        # It recognises a prompt that is too long by the text of OpenAI's error, not by its code.
        (
            litellm.ContextWindowExceededError,
            {"messages": [{"role": "user", "content": "a " * 9000}]},
        ),
        (litellm.ServiceUnavailableError, {"api_base": f"{URL_WITHOUT_SERVICE}/v1"}),
        (
            litellm.Timeout,
            {
                "model": "openai/scripted",
                "messages": [{"role": "user", "content": "say-at-a-crawl"}],
                "extra_headers": {"X-Request-Timeout": "0.5"},
            },
        ),
    ):
        request: Any = {"model": "openai/demo", "messages": ASK, **SERVED, **changes}
        try:
            litellm.completion(**request)
        except error:
            continue
        raise AssertionError(error)


def check_retries() -> None:
    """retries after `Retry-After`"""
    request: Any = {
        **SERVED,
        "api_key": KEY_LIMITED,
        "model": "openai/scripted",
        "messages": [{"role": "user", "content": "say-hello"}],
    }
    error = None
    while error is None:
        try:
            litellm.completion(**request)
        except litellm.RateLimitError as caught:
            error = caught
    answer = litellm.completion(**{**request, "max_retries": 2})
    assert answer.choices[0].message.content == HELLO
