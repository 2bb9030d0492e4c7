"""Results convert to dicts and JSON, and work with pickle and pydantic."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest

import foundry_api
from foundry_api import (
    AttemptRecord,
    BatchRequest,
    BatchResult,
    BreakerStatistics,
    CacheStats,
    Canary,
    CatalogListing,
    Chunk,
    Completion,
    DownloadProgress,
    Embeddings,
    FoundryAPIClient,
    FunctionCall,
    HealthChanged,
    HealthSample,
    HealthStatus,
    LimiterStatistics,
    Message,
    Metrics,
    Model,
    ModelUser,
    RawResponse,
    Response,
    ResponseEvent,
    ResponseItem,
    ResponsePage,
    ServerError,
    Timings,
    ToolCall,
    ToolResult,
    ToolRun,
    Traffic,
    Transcription,
    TranscriptionChunk,
    Usage,
)
from foundry_api.monitor.summary import summarise
from foundry_api.testing import ErrorReply, FakeService, Reply, skip_sleeps
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.serialization import Headers, Result

TIMINGS = Timings(0.1, 0.2, 30.0)
ATTEMPTS = (
    AttemptRecord(0.1, ServerError("it failed", service="http://x", status=500)),
    AttemptRecord(0.2),
)
CALL = ToolCall("1", FunctionCall("clock", "{}"))
WHERE: dict[str, Any] = {"service": "http://127.0.0.1:5273", "service_generation": "sdk-2.1"}
COMPLETION = Completion(
    content="Paris",
    parsed={"city": "Paris"},
    model="demo:1",
    finish_reason="stop",
    usage=Usage(1, 2, 3),
    timings=TIMINGS,
    attempts=ATTEMPTS,
    headers=(("Server", "oatpp"),),
    raw=(b"{}" * 1000, b"[DONE]"),
    tool_calls=(CALL,),
    **WHERE,
)
ITEM = ResponseItem(type="message", role="assistant", text="Hi", raw={"type": "message"})
RESPONSE = Response(
    id="resp_1", status="completed", model="demo:1", output=(ITEM,), attempts=ATTEMPTS, **WHERE
)
STATUS = HealthStatus(status="healthy", service="http://x", loaded_models=("demo:1",))
SAMPLE = HealthSample(status="healthy", state="healthy", traffic=Traffic(), canary=None)
TOOL_RESULT = ToolResult(
    call=CALL, arguments={}, value="12:00", content="12:00", duration_s=0.1, turn=1
)
RESULTS: list[Any] = [
    COMPLETION,
    Chunk("Hi", "demo:1", "stop", Usage(), TIMINGS, ATTEMPTS, b"{}", tool_calls=(CALL,)),
    Embeddings(
        vectors=((0.1, 0.2),) * 2,
        model="m",
        usage=None,
        timings=TIMINGS,
        attempts=ATTEMPTS,
        **WHERE,
    ),
    Transcription(text="Hi", model="m", timings=TIMINGS, attempts=ATTEMPTS, raw=(b"x",), **WHERE),
    TranscriptionChunk("Hi", "m", TIMINGS, ATTEMPTS, b"x"),
    RESPONSE,
    ITEM,
    ResponseEvent(type="response.completed", response=RESPONSE, item=ITEM, raw=b"{}"),
    ResponsePage(responses=(RESPONSE,)),
    RawResponse(
        status=200, headers={"X-A": "b"}, body=b"\xff", service="http://x", attempts=ATTEMPTS
    ),
    BatchResult(index=0, custom_id="a", request=[Message("user", "Hi")], answer=COMPLETION),
    BatchResult(index=1, custom_id="b", request="Hi", error=ServerError("no")),
    BatchRequest(custom_id="a", body={"messages": []}),
    TOOL_RESULT,
    ToolRun(
        completion=msgspec.structs.replace(COMPLETION, parsed=None),
        messages=(Message("user", "Hi"),),
        calls=(TOOL_RESULT,),
        turns=1,
        usage=Usage(),
    ),
    STATUS,
    SAMPLE,
    summarise([SAMPLE]),
    HealthChanged(old="unknown", new="down", since=0.0, at=1.0, reason="gone", sample=SAMPLE),
    Canary(at=1.0, outcome="skipped"),
    Model(id="m:1", alias="m", catalog="local"),
    ModelUser(program="p", pid=1, last_used_s=0.5),
    CatalogListing(models=(Model(id="m", alias="m", catalog="public"),), fetched_at=1, fresh=True),
    CacheStats(hits=1),
    DownloadProgress(percent=1.0),
    CAPABILITIES["sdk-2.1"],
    Metrics().snapshot(),
    Message("user", "Hi"),
    Usage(1, 2, 3),
]


def to_json(members: Any) -> Any:
    """Return members as JSON values, with sets sorted."""
    plain = json.loads(json.dumps(members))
    return (
        {**plain, "ignored_parameters": sorted(plain["ignored_parameters"])}
        if "ignored_parameters" in plain
        else plain
    )


@pytest.mark.parametrize("result", RESULTS, ids=lambda each: type(each).__name__)
class TestResults:
    def test_to_dict_gives_json_values(self, result: Result) -> None:
        members = result.to_dict()
        assert json.loads(json.dumps(members)) == msgspec.json.decode(msgspec.json.encode(members))
        assert set(members) <= {field.name for field in msgspec.structs.fields(result)}  # type: ignore[type-var]

    def test_msgspec_encodes_a_result(self, result: Result) -> None:
        encoded = msgspec.json.encode(result)
        assert to_json(msgspec.json.decode(encoded)) == to_json(result.to_dict())

    def test_results_can_be_pickled_and_copied(self, result: Result) -> None:
        for twin in (
            pickle.loads(pickle.dumps(result)),  # noqa: S301 - our own
            copy.copy(result),
            copy.deepcopy(result),
        ):
            assert type(twin) is type(result)
            assert to_json(twin.to_dict()) == to_json(result.to_dict())

    def test_a_result_can_be_a_pydantic_field(self, result: Result) -> None:
        model = pydantic.create_model("Mine", result=(type(result), ...))
        mine: Any = model(result=result)
        assert mine.result is result
        dumped = mine.model_dump_json()
        assert to_json(json.loads(dumped)["result"]) == to_json(result.to_dict())
        assert to_json(mine.model_dump()["result"]) == to_json(result.to_dict())
        again: Any = model.model_validate_json(dumped)
        assert to_json(again.result.to_dict()) == to_json(result.to_dict())
        assert len(repr(again.result)) < 1_000
        assert model.model_json_schema()["properties"]["result"]["type"] == "object"
        with pytest.raises(pydantic.ValidationError):
            model(result=5)

    def test_the_repr_is_short(self, result: Result) -> None:
        assert len(str(result)) < 1_000
        assert len(repr(result)) < 1_000


def test_statistics_are_results() -> None:
    client = FoundryAPIClient("http://127.0.0.1:1")
    for each in (client.breaker.statistics(), client.limiter.statistics()):
        assert isinstance(each, BreakerStatistics | LimiterStatistics)
        assert json.dumps(each.to_dict()) == msgspec.json.encode(each).decode().replace(
            ":", ": "
        ).replace(",", ", ")


def test_public_value_types_are_results() -> None:
    """Also those added later, except for options and settings, which are inputs."""
    inputs = {"BatchOptions", "InputOptions", "Request", "ResponseHead"}
    public = {name: getattr(foundry_api, name) for name in foundry_api.__all__}
    structs = {
        name
        for name, each in public.items()
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    }
    lacking = {name for name in structs - inputs if not issubclass(public[name], Result)}
    assert not lacking


class City(pydantic.BaseModel):
    name: str


@dataclass
class Town:
    name: str


class Place:
    def __str__(self) -> str:
        return "a place"


@pytest.mark.parametrize(
    ("parsed", "expected"),
    [
        (City(name="Bern"), {"name": "Bern"}),
        ([City(name="Bern")], [{"name": "Bern"}]),
        (Town("Bern"), {"name": "Bern"}),
        (Place(), "a place"),
        (Path("a"), "a"),
        (Decimal("0.5"), "0.5"),
        (np.float64(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        (ValueError("no"), {"type": "ValueError", "message": "no"}),
        ({1: (2, {3})}, {"1": [2, [3]]}),
    ],
)
def test_a_foreign_value_is_converted_by_its_library(parsed: Any, expected: Any) -> None:
    members = msgspec.structs.replace(COMPLETION, parsed=parsed).to_dict()
    assert json.loads(json.dumps(members))["parsed"] == expected


def test_an_error_becomes_its_attributes() -> None:
    (failed, _) = COMPLETION.to_dict()["attempts"]
    error = failed["error"]
    assert (error["type"], error["message"], error["status"]) == ("ServerError", "it failed", 500)


def test_a_decoded_error_can_be_printed_raised_and_pickled() -> None:
    """In another process, because printing an error without args would crash it."""
    attempt = AttemptRecord(1.0, ServerError("it failed", status=500, model="demo"))
    finished = subprocess.run(
        [sys.executable, "-c", PRINTED, msgspec.json.encode(attempt)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    expected = "it failed (model demo, HTTP 500). "
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.splitlines()[0] == "FoundryError('it failed') ServerError"
    assert all(line.startswith(expected) for line in finished.stdout.splitlines()[1:])


PRINTED = """
import pickle, sys, msgspec
from foundry_api import AttemptRecord, FoundryError
error = msgspec.json.decode(sys.argv[1], type=AttemptRecord).error
print(repr(error), error.type)
print(pickle.loads(pickle.dumps(error)))
try:
    raise error
except FoundryError as caught:
    print(caught)
"""


def test_the_repr_of_a_completion_omits_details() -> None:
    long = msgspec.structs.replace(COMPLETION, content="x" * 10_000)
    assert str(COMPLETION).startswith("Completion(content='Paris', ")
    for shown in ("'demo:1'", "'stop'", "prompt_tokens=1"):
        assert shown in str(COMPLETION)
    for hidden in ("oatpp", "DONE", "it failed"):
        assert hidden not in str(COMPLETION)
    assert len(str(long)) < 500


def test_headers_are_case_insensitive_and_the_first_applies() -> None:
    headers = Headers({"X-A": "1", "x-a": "2", "B": "3"})
    assert (headers["x-A"], headers.get("b"), headers.get("c"), headers.get("c", "d")) == (
        "1",
        "3",
        None,
        "d",
    )
    assert "X-a" in headers
    assert 5 not in headers
    with pytest.raises(KeyError):
        headers["c"]
    assert dict(pickle.loads(pickle.dumps(headers))) == {"X-A": "1", "B": "3"}  # noqa: S301 - our own


async def test_recorded_responses_can_be_encoded() -> None:
    with skip_sleeps():
        async with (
            FakeService(ErrorReply(503), Reply("Hello"), Reply("Hello")) as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            completion = await client.complete("Hi")
            reply = await client.request("GET", "/v1/models")
            chunks = [chunk async for chunk in client.stream_complete("Hi")]
    for result in (completion, reply, *chunks):
        assert msgspec.json.encode(result) == msgspec.json.encode(result.to_dict())
        assert pickle.loads(pickle.dumps(result)).to_dict() == result.to_dict()  # noqa: S301
    assert completion.to_dict()["attempts"][0]["error"]["type"] == "ServiceOverloaded"
    assert reply.headers["CONTENT-TYPE"].startswith("application/json")


def test_a_header_that_is_not_utf8_can_be_encoded() -> None:
    headers = Headers({"X-A": "caf\udce9", "B": "caf\u00e9"})
    assert headers == {"X-A": "caf\u00e9", "B": "caf\u00e9"}
    assert msgspec.json.decode(msgspec.json.encode(headers)) == headers
