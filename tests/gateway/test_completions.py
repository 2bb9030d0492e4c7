"""`POST /v1/completions` on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway import helpers
from gateway.shapes import check_shape
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    import aiohttp

PATH = "/v1/completions"
HELLO = script("say-hello").text


def make_body(**options: Any) -> dict[str, Any]:
    return {"model": "scripted", "prompt": "say-hello", "max_tokens": 40, **options}


async def test_a_completion_has_openai_shape(http: aiohttp.ClientSession) -> None:
    answer = await helpers.post(http, PATH, make_body())
    check_shape("text_completion", answer)
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (HELLO, "stop")
    assert answer["usage"]["prompt_tokens"] == prompt_tokens(
        [{"role": "user", "content": "say-hello"}]
    )


async def test_p34_a_stream_has_openai_shape_and_one_end(http: aiohttp.ClientSession) -> None:
    body = make_body(echo=True, stream_options={"include_usage": True})
    *chunks, usage, end = await helpers.stream(http, PATH, body)
    assert (end, usage["choices"]) == ("[DONE]", [])
    assert usage["usage"]["completion_tokens"] > 0
    for chunk in chunks:
        check_shape("text_completion", chunk)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "say-hello" + HELLO
    assert [c["choices"][0]["finish_reason"] for c in chunks].count("stop") == 1


async def test_several_prompts_have_choices_in_order(http: aiohttp.ClientSession) -> None:
    prompts = ["say-hello", "say-stop"]
    answer = await helpers.post(http, PATH, make_body(prompt=prompts, n=2, echo=True))
    texts = [prompt + script(prompt).text for prompt in prompts for _ in range(2)]
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == sum(
        prompt_tokens([{"role": "user", "content": prompt}]) for prompt in prompts
    )


async def test_without_a_limit_sixteen_tokens_are_generated(http: aiohttp.ClientSession) -> None:
    answer = await helpers.post(http, PATH, make_body(prompt="say-long", max_tokens=None))
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["x", ""]}, "prompt[1]"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a\0b"}, "prompt"),
        ({"prompt": ["x", "a\0b"]}, "prompt[1]"),
        ({"prompt": ["x"] * 5, "n": 2}, "prompt"),
        ({"max_tokens": "4"}, "max_tokens"),
        ({"logprobs": 0}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
    ],
)
async def test_a_bad_request_names_the_field(
    http: aiohttp.ClientSession, change: dict[str, Any], param: str
) -> None:
    answer = await helpers.post(http, PATH, make_body(**change), 400)
    check_shape("error", answer)
    assert answer["error"]["param"] == param
