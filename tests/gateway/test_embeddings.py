"""`POST /v1/embeddings` on the wire."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gateway.shapes import check_shape

if TYPE_CHECKING:
    import aiohttp

PATH = "/v1/embeddings"


async def post(http: aiohttp.ClientSession, status: int = 200, **body: Any) -> Any:
    async with http.post(PATH, json={"model": "embedder", **body}) as response:
        answer = await response.json()
        assert response.status == status, answer
        return answer


async def test_base64_and_numbers_are_the_same_vectors(http: aiohttp.ClientSession) -> None:
    texts = ["first text", "second text"]
    numbers = await post(http, input=texts)
    check_shape("embeddings.float", numbers)
    encoded = await post(http, input=texts, encoding_format="base64")
    check_shape("embeddings.base64", encoded)
    for one, other in zip(numbers["data"], encoded["data"], strict=True):
        data = base64.b64decode(other["embedding"])
        assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(one["embedding"])
    assert numbers["usage"]["prompt_tokens"] > 0
    assert numbers["model"] == "embedder"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": ["x", "a\0b"]}, "input[1]"),
        ({"input": "x", "dimensions": 8}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({}, "input"),
    ],
)
async def test_a_bad_request_names_the_field(
    http: aiohttp.ClientSession, change: dict[str, Any], param: str
) -> None:
    answer = await post(http, 400, **change)
    check_shape("error", answer)
    assert answer["error"]["param"] == param


async def test_a_chat_model_makes_no_embeddings(http: aiohttp.ClientSession) -> None:
    answer = await post(http, 400, model="scripted", input="x")
    assert answer["error"]["code"] == "model_task_mismatch"
