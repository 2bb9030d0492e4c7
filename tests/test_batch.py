"""`client.batch` and `LocalEngine`, on the real engine."""

from __future__ import annotations

import asyncio
import base64
import struct
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from foundry_api import (
    BatchRequest,
    BatchResult,
    FirstToken,
    FoundryAPIClient,
    FoundryClient,
    Message,
)
from foundry_api.batch.engine import LocalEngine
from foundry_api.batch.types import EMBEDDINGS_URL, RESPONSES_URL, Line, WorkItem
from foundry_api.testing import Disconnect, ErrorReply, FakeService, skip_sleeps
from foundry_api.types import errors
from service.helpers import list_hosts
from support.scripted_model import script
from support.scripted_model.embeddings import embedding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from foundry_api.batch.types import BatchLineResult, BatchUrl

HELLO = script("say-hello").text


def chat(custom_id: str, prompt: str = "say-hello", **members: Any) -> BatchRequest:
    messages = [{"role": "user", "content": prompt}]
    return BatchRequest(custom_id=custom_id, body={"messages": messages, **members})


async def make_items(*requests: BatchRequest) -> AsyncGenerator[WorkItem]:
    for index, request in enumerate(requests):
        yield WorkItem(Line(index, index + 1, 7 * index, b""), request)


async def run_engine(engine: LocalEngine, *requests: BatchRequest) -> list[BatchLineResult]:
    async with aclosing(engine.run(make_items(*requests))) as answers:
        results = [result async for result in answers]
    return sorted(results, key=lambda result: result.index)


def output(result: BatchLineResult) -> dict[str, Any]:
    line: dict[str, Any] = msgspec.json.decode(result.output)
    return line


class TestResults:
    async def test_each_request_has_its_result(self, client: FoundryAPIClient) -> None:
        prompts = ["say-hello", [Message("user", "say-json")], chat("mine", "say-think")]
        results = [result async for result in client.batch(prompts, ordered=True)]
        assert [result.index for result in results] == [0, 1, 2]
        assert [result.custom_id for result in results] == ["request-0", "request-1", "mine"]
        assert [result.request for result in results] == prompts
        assert [result.unwrap().content for result in results] == [
            HELLO,
            script("say-json").text,
            "42",
        ]

    async def test_requests_may_be_any_iterable(self, client: FoundryAPIClient) -> None:
        async def slowly() -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(0)
                yield "say-hello"

        for requests in (slowly(), ("say-hello" for _ in range(3)), ("say-hello",) * 3):
            results = [result.unwrap().content async for result in client.batch(requests)]
            assert results == [HELLO] * 3

    async def test_answers_are_parsed_as_requested(self, client: FoundryAPIClient) -> None:
        @dataclass
        class Person:
            name: str
            born: int
            languages: list[str]

        parsed = client.batch(["say-json"] * 2, response_model=Person)
        assert [type(result.unwrap().parsed) async for result in parsed] == [Person] * 2
        lengths = client.batch(["say-hello"], parser=len, system="Count.")
        assert [result.unwrap().parsed async for result in lengths] == [len(HELLO)]

    async def test_validators_are_read_once_for_all_requests(
        self, client: FoundryAPIClient
    ) -> None:
        validators = iter([lambda text: text != HELLO])
        results = client.batch(["say-hello"] * 3, validators=validators, max_repairs=0)
        assert [type(result.error).__name__ async for result in results] == [
            "StructuredOutputError"
        ] * 3

    async def test_failure_is_returned_or_raised(self, client: FoundryAPIClient) -> None:
        requests: list[Any] = [
            "say-hello",
            "",
            5,
            chat("n", n=2),
            BatchRequest(custom_id="e", body={}),
        ]
        results = [result async for result in client.batch(requests, ordered=True)]
        assert results[0].error is None
        fields = [getattr(result.error, "field", None) for result in results[1:]]
        assert fields == ["prompt", "requests[2]", "n", "messages"]
        with pytest.raises(errors.InvalidRequest):
            results[1].unwrap()
        with pytest.raises(errors.InvalidRequest):
            async for _ in client.batch(requests[1:2], errors="raise"):
                pass

    @pytest.mark.parametrize(
        ("requests", "options", "field"),
        [
            ("say-hello", {}, "requests"),
            (5, {}, "requests"),
            ({"role": "user"}, {}, "requests"),
            (chat("a"), {}, "requests"),
            ([], {"temperature": 5}, "temperature"),
            ([], {"errors": "ignore"}, "errors"),
            ([], {"max_attempts": 0}, "max_attempts"),
            ([], {"patience": -1}, "patience"),
            ([], {"choice": []}, "choice"),
            ([], {"system": 5}, "system"),
            ([], {"max_attempts": 1.5}, "max_attempts"),
            ([], {"patience": None}, "patience"),
            ([], {"dedupe": "no"}, "dedupe"),
            ([], {"deadline": "5"}, "deadline"),
            ([], {"timeout": 0}, "timeout"),
        ],
    )
    async def test_invalid_argument_is_refused_at_once(
        self, client: FoundryAPIClient, requests: Any, options: Any, field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            client.batch(requests, **options)
        assert caught.value.field == field

    async def test_unknown_option_is_refused(self, client: FoundryAPIClient) -> None:
        options: Any = {"max_token": 5}
        with pytest.raises(TypeError, match="max_token"):
            client.batch([], **options)

    async def test_empty_messages_fail_no_line(self) -> None:
        """A model that only reasons returns empty content, which is part of later conversations."""
        calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        ask = {"role": "user", "content": "Hi"}
        turns = [
            {"role": "system", "content": ""},
            ask,
            {"role": "assistant", "content": "", "reasoning_content": "Hm."},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": ""},
            ask,
        ]
        async with (
            FakeService("Hello") as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            requests = [
                BatchRequest(custom_id="a", body={"messages": turns}),
                BatchRequest(custom_id="b", body={"messages": [turns[0], turns[2], ask]}),
                BatchRequest(custom_id="c", body={"messages": [ask, {**ask, "content": ""}]}),
            ]
            done = await run_engine(LocalEngine(client), *requests)
            sent = [[turn["role"] for turn in request["messages"]] for request in service.requests]
        assert [result.failed for result in done] == [False, False, True]
        assert output(done[2])["error"]["param"] == "messages[1].content"
        assert sorted(sent) == [["user"], ["user", "assistant", "tool", "user"]]

    async def test_identical_requests_are_sent_once(self) -> None:
        async with (
            FakeService("Hello") as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            results = [result async for result in client.batch(["Hi"] * 9 + ["Ho"], dedupe=True)]
        assert len(service.requests) == 2
        assert sum(result.shared for result in results) == 8
        assert {result.unwrap().content for result in results} == {"Hello"}

    async def test_closing_early_leaves_no_tasks(self, client: FoundryAPIClient) -> None:
        await client.complete("say-hello")  # starts the client's own background tasks
        before = asyncio.all_tasks()
        is_streaming = asyncio.Event()
        client.events.subscribe(lambda _: is_streaming.set(), FirstToken)
        async with aclosing(client.batch("say-forever" for _ in range(99))) as results:
            first = asyncio.ensure_future(anext(results))
            await is_streaming.wait()
            first.cancel()
            await asyncio.wait((first,))
        # A prompt that the engine still reads keeps its slot, and the task that waits for its end.
        async with asyncio.timeout(30):
            while client.limiter.abandoned:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert [service.limiter.load for service in client.services] == [0]
        assert asyncio.all_tasks() == before

    async def test_broken_streams_are_retried(self) -> None:
        script = (Disconnect(after="He"), "Hello", ErrorReply(), "Hello")
        async with (
            FakeService(*script) as service,
            FoundryAPIClient(service.base_url, model="fake", max_retries=0) as client,
        ):
            results = [result async for result in client.batch(["Hi"] * 6)]
        assert {result.unwrap().content for result in results} == {"Hello"}

    async def test_killed_engine_fails_no_request(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        kills = 0
        received: list[BatchResult[Any]] = []
        async with FoundryAPIClient(service="embedded", home=home, model="demo") as client:
            prompts = (f"Tell me fact {index}." for index in range(120))
            async with aclosing(client.batch(prompts, max_tokens=24)) as results:
                async for result in results:
                    received.append(result)
                    if len(received) in {20, 60}:
                        [process] = [psutil.Process(host.pid) for host in list_hosts(home)]
                        process.kill()
                        kills += 1
        assert kills == 2
        assert sorted(result.index for result in received) == list(range(120))
        assert [result.error for result in received if result.error] == []

    def test_batch_of_the_sync_client(self) -> None:
        with FoundryClient(service="embedded", model="demo") as client:
            results = [
                result.unwrap().content for result in client.batch(["Hello"] * 3, max_tokens=4)
            ]
        assert len(results) == 3


class TestLines:
    async def test_completion_has_the_form_of_openai(self, client: FoundryAPIClient) -> None:
        [line] = await run_engine(
            LocalEngine(client), chat("a", "say-think", max_completion_tokens=99)
        )
        line_output = output(line)
        assert line_output["custom_id"] == "a"
        assert line_output["error"] is None
        assert line_output["response"]["status_code"] == 200
        body = line_output["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["model"] == "scripted:1"
        [choice] = body["choices"]
        assert choice["message"]["content"] == "42"
        assert choice["message"]["reasoning_content"] == "Six times seven."
        assert choice["finish_reason"] == "stop"
        assert line.completion_tokens == body["usage"]["completion_tokens"] > 0
        assert (line.failed, line.attempts, line.digest) == (False, 1, 0)

    @pytest.mark.parametrize("dedupe", [False, True])
    async def test_answer_ids_are_unique(
        self,
        client: FoundryAPIClient,
        dedupe: bool,  # noqa: FBT001 - pytest calls by name
    ) -> None:
        """Outputs of several batches may be put together, with equal custom ids in them."""
        ids: list[str] = []
        for _ in range(2):
            lines = [chat("a"), chat("b"), chat("c", n=2)]
            *done, failed = await run_engine(LocalEngine(client, dedupe=dedupe), *lines)
            for line_output in map(output, done):
                ids += [line_output["id"], line_output["response"]["request_id"]]
                ids.append(line_output["response"]["body"]["id"])
            ids.append(output(failed)["id"])
        assert len(set(ids)) == len(ids) == 14

    async def test_response_format_is_applied(self, client: FoundryAPIClient) -> None:
        schema = {"type": "object", "properties": {"born": {"type": "integer"}}}
        wrapped = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
        [line, wrong] = await run_engine(
            LocalEngine(client),
            chat("a", "say-json", response_format=wrapped),
            chat("b", response_format={"type": "json_schema"}),
        )
        content = output(line)["response"]["body"]["choices"][0]["message"]["content"]
        assert isinstance(msgspec.json.decode(content), dict)
        assert (wrong.failed, wrong.code) == (True, "InvalidRequest")
        assert output(wrong)["error"]["param"] == "response_format.json_schema.schema"

    async def test_tool_calls_have_the_form_of_openai(self, client: FoundryAPIClient) -> None:
        function = {"name": "calculate", "parameters": {"type": "object", "properties": {}}}
        [line] = await run_engine(
            LocalEngine(client),
            chat(
                "a",
                "call-calculator",
                tools=[{"type": "function", "function": function}],
                tool_choice={"type": "function", "function": {"name": "calculate"}},
            ),
        )
        assert not line.failed, line.output
        [choice] = output(line)["response"]["body"]["choices"]
        assert choice["message"]["content"] is None
        [call] = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "calculate"

    async def test_embeddings_are_numbers_or_base64(self, client: FoundryAPIClient) -> None:
        body = {"model": "embedder", "input": ["Hello"]}
        requests = [
            BatchRequest(custom_id=name, url=EMBEDDINGS_URL, body={**body, "encoding_format": name})
            for name in ("float", "base64")
        ]
        bodies = [
            output(result)["response"]["body"]
            for result in await run_engine(LocalEngine(client), *requests)
        ]
        [[plain], [coded]] = [body["data"] for body in bodies]
        assert plain["embedding"] == embedding("Hello")
        raw = base64.b64decode(coded["embedding"])
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(plain["embedding"])

    async def test_responses_are_the_objects_of_the_service(self, client: FoundryAPIClient) -> None:
        request = BatchRequest(custom_id="a", url=RESPONSES_URL, body={"input": "say-hello"})
        [line] = await run_engine(LocalEngine(client), request)
        body = output(line)["response"]["body"]
        assert body["object"] == "response"
        assert body["status"] == "completed"
        assert HELLO in str(body["output"])

    @pytest.mark.parametrize("url", [RESPONSES_URL, EMBEDDINGS_URL])
    async def test_body_without_input_fails_alone(
        self, client: FoundryAPIClient, url: BatchUrl
    ) -> None:
        bad = BatchRequest(custom_id="bad", url=url, body={"model": "embedder"})
        results = await run_engine(LocalEngine(client), bad, chat("good"))
        assert [result.failed for result in results] == [True, False]
        assert output(results[0])["response"] is None

    async def test_error_response_has_the_status_of_the_service(self) -> None:
        async with (
            FakeService(ErrorReply(400, "no such thing")) as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            [line] = await run_engine(LocalEngine(client), chat("a"))
        line_output = output(line)
        assert line_output["response"]["status_code"] == 400
        assert line_output["response"]["body"]["error"]["message"] == "no such thing"
        assert line_output["error"]["code"] == line.code == "InvalidRequest"

    @pytest.mark.parametrize(
        ("script", "failed", "attempts"),
        [
            ([ErrorReply(500), Disconnect(), "Hello"], False, 3),
            ([ErrorReply(500)] * 3, True, 3),
        ],
    )
    async def test_attempts_of_all_tries_are_counted(
        self, script: list[Any], *, failed: bool, attempts: int
    ) -> None:
        async with (
            FakeService(*script) as service,
            FoundryAPIClient(service.base_url, model="fake", max_retries=0) as client,
        ):
            with skip_sleeps():
                [line] = await run_engine(LocalEngine(client), chat("a"))
        assert len(service.requests) == 3
        assert (line.failed, line.attempts) == (failed, attempts)

    async def test_messages_of_openai_answers_can_be_sent(self, client: FoundryAPIClient) -> None:
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "ada"},
            {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []},
            {"role": "user", "content": "say-hello"},
        ]
        request = BatchRequest(custom_id="a", body={"messages": messages})
        [line] = await run_engine(LocalEngine(client), request)
        assert not line.failed, line.output

    async def test_shared_answers_outlive_the_process(self, tmp_path: Path) -> None:
        async with (
            FakeService("Hello") as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            first = await run_engine(LocalEngine(client, dedupe=tmp_path), chat("a"), chat("b"))
            second = await run_engine(LocalEngine(client, dedupe=tmp_path), chat("c"))
        assert len(service.requests) == 1
        assert [result.shared for result in (*first, *second)] == [False, True, True]
        assert output(second[0])["custom_id"] == "c"

    async def test_state_includes_the_services(self, client: FoundryAPIClient) -> None:
        engine = LocalEngine(client)
        await run_engine(engine, chat("a"))
        state = engine.get_state()
        assert (state.in_flight, state.queued) == (0, 0)
        assert state.limit
        assert [breaker for _, breaker in state.services] == ["closed"]
