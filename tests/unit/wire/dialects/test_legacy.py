"""The dialect of the CLI service up to 0.9, with documented and recorded responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.chat import make_chat_request
from foundry_api.types import errors
from foundry_api.types.messages import Usage
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import ServiceClient, parse_error
from foundry_api.wire.dialects.legacy import LegacyDialect
from foundry_api.wire.dialects.legacy_catalog import (
    CATALOG_DECODER,
    CatalogItem,
    get_execution_provider,
    make_download_body,
    make_model,
    resolve_id,
    sort_variants,
)
from foundry_api.wire.transport import BufferedResponse

if TYPE_CHECKING:
    from foundry_api.types.messages import Chunk
    from foundry_api.wire.chat.events import StreamEnd
    from foundry_api.wire.transport import Request

MODEL = Model(id="qwen2.5-1.5b-instruct-generic-gpu:3", alias="qwen2.5-1.5b", catalog="public")
DONE = b"data: [DONE]\n\n"

OF_0_8 = (
    b'data: {"model":"qwen2.5-1.5b-instruct-generic-gpu:3","choices":[{"delta":{"role":"assistant"'
    b',"content":"ence","tool_calls":[]},"message":{"role":"assistant","content":"ence",'
    b'"tool_calls":[]},"index":0}],"created":1762612476,"CreatedAt":"2025-11-08T14:34:36+00:00",'
    b'"id":"chat.id.1","IsDelta":false,"Successful":true,"HttpStatusCode":0,'
    b'"object":"chat.completion.chunk"}\n\n'
)
"""Recorded from 0.8.101: https://github.com/microsoft/foundry-local/issues/299."""

OF_JUNE_2025 = (
    b'data: {"model":null,"choices":[{"delta":{"role":"assistant","content":" maybe","name":null,'
    b'"tool_call_id":null,"function_call":null,"tool_calls":[]},"message":{"role":"assistant",'
    b'"content":" maybe","name":null,"tool_call_id":null,"function_call":null,"tool_calls":[]},'
    b'"index":198,"finish_reason":null,"finish_details":null,"logprobs":null}],"usage":null,'
    b'"system_fingerprint":null,"service_tier":null,"created":1749165718,'
    b'"CreatedAt":"2025-06-05T23:21:58+00:00","id":"chat.id.4115","StreamEvent":null,'
    b'"IsDelta":false,"Successful":true,"error":null,"HttpStatusCode":0,"HeaderValues":null,'
    b'"object":"chat.completion.chunk"}\n\n'
)
"""Recorded in June 2025: https://github.com/microsoft/foundry-local/issues/144."""


class Unused:
    """A transport that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


def body_of(request: Request | None) -> dict[str, Any]:
    assert request
    assert request.body
    members: dict[str, Any] = json.loads(request.body)
    return members


DIALECT = LegacyDialect(ServiceClient(Unused(), "http://service"))


def read(stream: bytes, **options: Any) -> tuple[list[Chunk], StreamEnd]:
    request = make_chat_request([{"role": "user", "content": "Hi"}], **options)
    decoder = DIALECT.make_chat_decoder(MODEL, request)
    chunks = list(decoder.feed(stream))
    return chunks, decoder.finish()


# --- chat -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunk", "text"), [(OF_0_8, "ence"), (OF_JUNE_2025, " maybe")])
def test_recorded_chunk_yields_its_text_once(chunk: bytes, text: str) -> None:
    chunks, ending = read(chunk * 2 + DONE)
    assert [chunk.content for chunk in chunks] == [text, text]
    assert {chunk.model for chunk in chunks} == {MODEL.id}
    assert ending.finish_reason == "stop"
    assert ending.usage == Usage()


@pytest.mark.parametrize(
    ("pieces", "options", "reason"),
    [
        (3, {"max_tokens": 4}, "stop"),
        (4, {"max_tokens": 4}, "length"),
        (4, {"max_tokens": 9, "extra": {"max_completion_tokens": 4}}, "length"),
        (511, {}, "stop"),
        (512, {}, "length"),
    ],
)
def test_answer_at_its_limit_is_truncated(
    pieces: int, options: dict[str, Any], reason: str
) -> None:
    _, ending = read(OF_0_8 * pieces + DONE, **options)
    assert ending.finish_reason == reason


def test_finish_reason_and_usage_of_older_services() -> None:
    """Services before 0.8 send both, and `stop` for a truncated answer (issue 243)."""
    chunk = json.loads(OF_JUNE_2025.removeprefix(b"data: "))
    chunk["choices"][0]["finish_reason"] = "stop"
    chunk["usage"] = {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    last = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    _, ending = read(last + DONE, max_tokens=5)
    assert (ending.finish_reason, ending.usage) == ("length", Usage(2, 5, 7))
    _, ending = read(last + DONE, max_tokens=6)
    assert ending.finish_reason == "stop"


@pytest.mark.parametrize("stream", [b"", OF_0_8])
def test_answer_without_end_mark_is_interrupted(stream: bytes) -> None:
    with pytest.raises(errors.StreamInterrupted):
        read(stream)


def test_request_has_no_stop_strings_and_a_random_seed() -> None:
    request = make_chat_request([{"role": "user", "content": "Hi"}], stop="END", seed=7)
    body = body_of(DIALECT.build_chat_request(MODEL, request))
    assert body["model"] == MODEL.id
    assert "stop" not in body
    assert (body["seed"], body["random_seed"]) == (7, 7)
    assert body["stream"] is True
    plain = body_of(DIALECT.build_non_streaming_request(MODEL, request))
    assert plain == {
        name: value for name, value in body.items() if name not in {"stream", "stream_options"}
    }


def test_tool_history_is_plain_text() -> None:
    """Whether the service would put them into the prompt is unknown."""
    call = {"id": "c", "function": {"name": "look", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "a cat"},
    ]
    body = body_of(DIALECT.build_chat_request(MODEL, make_chat_request(turns)))
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][2]["content"] == "look returned:\na cat"


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (
            400,
            (
                b"System.InvalidOperationException: No OpenAIService provider found for modelName"
                b":phi\n"
                b"   at Microsoft.Neutron.OpenAI.OpenAIServiceComposite.GetProvider(String)\n"
                b"--- End of stack trace from previous location ---\n"
            ),
            errors.ModelNotCached,
            "No OpenAIService provider found for modelName:phi",
        ),
        (
            500,
            (
                b'{"type":"https://tools.ietf.org/html/rfc9110","title":"An error occurred",'
                b'"status":500,"detail":"out of memory"}'
            ),
            errors.ServerError,
            "out of memory",
        ),
        (400, b'{"title":"Bad Request"}', errors.InvalidRequest, "Bad Request"),
        (
            500,
            (
                b"System.Exception: No models were returned from the Azure Foundry catalog.\r\n"
                b"   at Foo()"
            ),
            errors.CatalogUnavailable,
            "No models were returned from the Azure Foundry catalog",
        ),
    ],
)
def test_dotnet_error_is_reported_without_its_stack(
    status: int, body: bytes, kind: type[errors.FoundryError], message: str
) -> None:
    error = parse_error(BufferedResponse(status, {}, body))
    assert (type(error), error.message) == (kind, message)


# --- the catalog ------------------------------------------------------------------------------


def variant(name: str, device: str, provider: str | None = None, alias: str = "phi") -> CatalogItem:
    provider = provider or f"{device.title()}ExecutionProvider"
    runtime = {"deviceType": device, "executionProvider": provider}
    return msgspec.convert({"name": name, "alias": alias, "runtime": runtime}, CatalogItem)


NPU = variant("phi-qnn-npu:1", "NPU")
GPU = variant("phi-generic-gpu:1", "GPU", "WebGpuExecutionProvider")
CUDA = variant("qwen-cuda-gpu:1", "GPU", "CUDAExecutionProvider", alias="qwen")
CPU = variant("phi-generic-cpu:2", "CPU")
CPU_OLD = variant("phi-generic-cpu:1", "CPU")


def test_catalog_may_be_an_array_or_an_object() -> None:
    item = b'{"name":"phi-generic-cpu:1","alias":"phi","runtime":{"deviceType":"CPU"}}'
    bare = sort_variants(CATALOG_DECODER.decode(b"[" + item + b"]"), is_windows=False)
    wrapped = sort_variants(CATALOG_DECODER.decode(b'{"models":[' + item + b"]}"), is_windows=False)
    assert bare == wrapped
    assert bare[0].name == "phi-generic-cpu:1"


@pytest.mark.parametrize(
    ("items", "first"),
    [
        ([GPU, CPU, CPU_OLD], CPU),
        ([NPU, GPU, CPU], NPU),
        ([GPU], GPU),
        ([GPU, CPU, CUDA], GPU),
    ],
)
def test_windows_prefers_the_cpu_to_a_generic_gpu(
    items: list[CatalogItem], first: CatalogItem
) -> None:
    assert sort_variants(items, is_windows=True)[0] == first
    assert sort_variants(items, is_windows=False) == items


@given(st.lists(st.sampled_from([NPU, GPU, CUDA, CPU, CPU_OLD]), unique_by=lambda item: item.name))
def test_preferring_a_variant_loses_none(items: list[CatalogItem]) -> None:
    preferred = sort_variants(items, is_windows=True)
    assert sorted(item.name for item in preferred) == sorted(item.name for item in items)


def test_generic_gpu_variant_runs_on_cuda() -> None:
    assert get_execution_provider(GPU.name, [GPU, CUDA]) == "cuda"
    assert get_execution_provider(GPU.name, [GPU, CPU]) is None
    assert get_execution_provider(CPU.name, [GPU, CUDA]) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("phi-generic-cpu:1", "phi-generic-cpu:1"),
        ("PHI-generic-CPU:1", "phi-generic-cpu:1"),
        ("phi-generic-cpu", "phi-generic-cpu:2"),
        ("phi", "phi-qnn-npu:1"),
        ("my-own-model", "my-own-model"),
    ],
)
def test_resolve_id(name: str, meant: str) -> None:
    assert resolve_id(name, [NPU, GPU, CPU_OLD, CPU]) == meant


def test_make_model() -> None:
    members = {
        "name": "Phi-4-mini-instruct-generic-cpu:4",
        "alias": "phi-4-mini",
        "task": "chat-completion",
        "runtime": {"deviceType": "cpu", "executionProvider": "CPUExecutionProvider"},
        "fileSizeMb": 4915,
        "license": "MIT",
    }
    item = msgspec.convert(members, CatalogItem)
    assert make_model(item, cached={item.name}, loaded=()) == Model(
        id=item.name,
        alias="phi-4-mini",
        catalog="public",
        cached=True,
        task="chat-completion",
        device="CPU",
        size_mb=4915,
        license="MIT",
    )
    bare = msgspec.convert({"name": item.name}, CatalogItem)
    assert make_model(bare, cached=(), loaded=()) == Model(
        id=item.name, alias="phi-4-mini", catalog="public", cached=False
    )


@pytest.mark.parametrize(
    ("provider", "sent"), [("AzureFoundry", "AzureFoundryLocal"), ("HuggingFace", "HuggingFace")]
)
def test_download_body_is_that_of_the_sdk(provider: str, sent: str) -> None:
    members = {"name": "phi:1", "uri": "azureml://phi", "publisher": "Microsoft"}
    item = msgspec.convert(
        {**members, "providerType": provider, "promptTemplate": {"a": "b"}}, CatalogItem
    )
    assert make_download_body(item) == {
        "model": {
            "Name": "phi:1",
            "Uri": "azureml://phi",
            "Publisher": "Microsoft",
            "ProviderType": sent,
            "PromptTemplate": {"a": "b"},
        },
        "token": None,
        "IgnorePipeReport": True,
    }
