"""`client.batch` and the local engine of batches, as programs use them: on the real engine."""

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
from foundry_api.testing import Disconnect, ErrorReply, FakeService
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


async def works(*requests: BatchRequest) -> AsyncGenerator[WorkItem]:
    for index, request in enumerate(requests):
        yield WorkItem(Line(index, index + 1, 7 * index, b""), request)


async def finished(engine: LocalEngine, *requests: BatchRequest) -> list[BatchLineResult]:
    async with aclosing(engine.run(works(*requests))) as answers:
        told = [answer async for answer in answers]
    return sorted(told, key=lambda each: each.index)


def output(of: BatchLineResult) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.json.decode(of.output)
    return told


class TestResults:
    async def test_each_request_has_its_result(self, client: FoundryAPIClient) -> None:
        prompts = ["say-hello", [Message("user", "say-json")], chat("mine", "say-think")]
        told = [result async for result in client.batch(prompts, ordered=True)]
        assert [each.index for each in told] == [0, 1, 2]
        assert [each.custom_id for each in told] == ["request-0", "request-1", "mine"]
        assert [each.request for each in told] == prompts
        assert [each.unwrap().content for each in told] == [HELLO, script("say-json").text, "42"]

    async def test_requests_may_come_from_anything_that_gives_them(
        self, client: FoundryAPIClient
    ) -> None:
        async def slowly() -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(0)
                yield "say-hello"

        for requests in (slowly(), ("say-hello" for _ in range(3)), ("say-hello",) * 3):
            told = [each.unwrap().content async for each in client.batch(requests)]
            assert told == [HELLO] * 3

    async def test_answers_are_made_into_what_is_wanted(self, client: FoundryAPIClient) -> None:
        @dataclass
        class Person:
            name: str
            born: int
            languages: list[str]

        wanted = client.batch(["say-json"] * 2, response_model=Person)
        assert [type(each.unwrap().parsed) async for each in wanted] == [Person] * 2
        lengths = client.batch(["say-hello"], parser=len, system="Count.")
        assert [each.unwrap().parsed async for each in lengths] == [len(HELLO)]

    async def test_what_is_wanted_is_read_once_for_all(self, client: FoundryAPIClient) -> None:
        validators = iter([lambda text: text != HELLO])
        told = client.batch(["say-hello"] * 3, validators=validators, max_repairs=0)
        assert [type(each.error).__name__ async for each in told] == ["StructuredOutputError"] * 3

    async def test_a_failure_is_a_result_or_is_raised(self, client: FoundryAPIClient) -> None:
        requests: list[Any] = [
            "say-hello",
            "",
            5,
            chat("n", n=2),
            BatchRequest(custom_id="e", body={}),
        ]
        told = [each async for each in client.batch(requests, ordered=True)]
        assert told[0].error is None
        fields = [getattr(each.error, "field", None) for each in told[1:]]
        assert fields == ["prompt", "requests[2]", "n", "messages"]
        with pytest.raises(errors.InvalidRequest):
            told[1].unwrap()
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
    async def test_what_cannot_be_is_refused_at_once(
        self, client: FoundryAPIClient, requests: Any, options: Any, field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            client.batch(requests, **options)
        assert caught.value.field == field

    async def test_an_option_that_there_is_not_is_refused(self, client: FoundryAPIClient) -> None:
        options: Any = {"max_token": 5}
        with pytest.raises(TypeError, match="max_token"):
            client.batch([], **options)

    async def test_empty_turns_fail_no_line(self) -> None:
        """A model that only thinks answers with nothing, and every later line would fail of it."""
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
            asked = [
                BatchRequest(custom_id="a", body={"messages": turns}),
                BatchRequest(custom_id="b", body={"messages": [turns[0], turns[2], ask]}),
                BatchRequest(custom_id="c", body={"messages": [ask, {**ask, "content": ""}]}),
            ]
            done = await finished(LocalEngine(client), *asked)
            sent = [[turn["role"] for turn in each["messages"]] for each in service.requests]
        assert [each.failed for each in done] == [False, False, True]
        assert output(done[2])["error"]["param"] == "messages[1].content"
        assert sorted(sent) == [["user"], ["user", "assistant", "tool", "user"]]

    async def test_identical_requests_are_made_once(self) -> None:
        async with (
            FakeService("Hello") as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            told = [each async for each in client.batch(["Hi"] * 9 + ["Ho"], dedupe=True)]
        assert len(service.requests) == 2
        assert sum(each.shared for each in told) == 8
        assert {each.unwrap().content for each in told} == {"Hello"}

    async def test_leaving_early_leaves_nothing(self, client: FoundryAPIClient) -> None:
        await client.complete("say-hello")  # what a client itself has in the background has begun
        before = asyncio.all_tasks()
        speaks = asyncio.Event()
        client.events.subscribe(lambda _: speaks.set(), FirstToken)
        async with aclosing(client.batch("say-forever" for _ in range(99))) as results:
            first = asyncio.ensure_future(anext(results))
            await speaks.wait()
            first.cancel()
            await asyncio.wait((first,))
        assert [each.limiter.load for each in client.services] == [0]
        assert asyncio.all_tasks() == before

    async def test_one_line_that_always_breaks_off_fails_and_the_others_do_not(self) -> None:
        script = (Disconnect(after="He"), "Hello", ErrorReply(), "Hello")
        async with (
            FakeService(*script) as service,
            FoundryAPIClient(service.base_url, model="fake", max_retries=0) as client,
        ):
            told = [each async for each in client.batch(["Hi"] * 6)]
        assert {each.unwrap().content for each in told} == {"Hello"}

    async def test_an_engine_that_is_killed_fails_no_request(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        kills = 0
        told: list[BatchResult[Any]] = []
        async with FoundryAPIClient(service="embedded", home=home, model="demo") as client:
            prompts = (f"Tell me fact {index}." for index in range(120))
            async with aclosing(client.batch(prompts, max_tokens=24)) as results:
                async for result in results:
                    told.append(result)
                    if len(told) in {20, 60}:
                        [process] = [psutil.Process(each.pid) for each in list_hosts(home)]
                        process.kill()
                        kills += 1
        assert kills == 2
        assert sorted(each.index for each in told) == list(range(120))
        assert [each.error for each in told if each.error] == []

    def test_without_asyncio(self) -> None:
        with FoundryClient(service="embedded", model="demo") as client:
            told = [each.unwrap().content for each in client.batch(["Hello"] * 3, max_tokens=4)]
        assert len(told) == 3


class TestLines:
    async def test_a_completion_is_an_object_of_openai(self, client: FoundryAPIClient) -> None:
        [line] = await finished(
            LocalEngine(client), chat("a", "say-think", max_completion_tokens=99)
        )
        told = output(line)
        assert told["custom_id"] == "a"
        assert told["error"] is None
        assert told["response"]["status_code"] == 200
        body = told["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["model"] == "scripted:1"
        [choice] = body["choices"]
        assert choice["message"]["content"] == "42"
        assert choice["message"]["reasoning_content"] == "Six times seven."
        assert choice["finish_reason"] == "stop"
        assert line.completion_tokens == body["usage"]["completion_tokens"] > 0
        assert (line.failed, line.attempts, line.digest) == (False, 1, 0)

    @pytest.mark.parametrize("dedupe", [False, True])
    async def test_no_two_answers_have_an_id_in_common(
        self,
        client: FoundryAPIClient,
        dedupe: bool,  # noqa: FBT001 - pytest calls by name
    ) -> None:
        """Those of several batches may come together, each with a line of the same name."""
        ids: list[str] = []
        for _ in range(2):
            lines = [chat("a"), chat("b"), chat("c", n=2)]
            *done, failed = await finished(LocalEngine(client, dedupe=dedupe), *lines)
            for told in map(output, done):
                ids += [told["id"], told["response"]["request_id"]]
                ids.append(told["response"]["body"]["id"])
            ids.append(output(failed)["id"])
        assert len(set(ids)) == len(ids) == 14

    async def test_json_is_what_was_asked_for(self, client: FoundryAPIClient) -> None:
        schema = {"type": "object", "properties": {"born": {"type": "integer"}}}
        wrapped = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
        [line, wrong] = await finished(
            LocalEngine(client),
            chat("a", "say-json", response_format=wrapped),
            chat("b", response_format={"type": "json_schema"}),
        )
        content = output(line)["response"]["body"]["choices"][0]["message"]["content"]
        assert isinstance(msgspec.json.decode(content), dict)
        assert (wrong.failed, wrong.code) == (True, "InvalidRequest")
        assert output(wrong)["error"]["param"] == "response_format.json_schema.schema"

    async def test_calls_of_tools_come_as_openai_has_them(self, client: FoundryAPIClient) -> None:
        function = {"name": "calculate", "parameters": {"type": "object", "properties": {}}}
        [line] = await finished(
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
        asked = [
            BatchRequest(custom_id=name, url=EMBEDDINGS_URL, body={**body, "encoding_format": name})
            for name in ("float", "base64")
        ]
        told = [output(each) for each in await finished(LocalEngine(client), *asked)]
        [[plain], [coded]] = [each["response"]["body"]["data"] for each in told]
        assert plain["embedding"] == embedding("Hello")
        raw = base64.b64decode(coded["embedding"])
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(plain["embedding"])

    async def test_responses_are_the_services_own_objects(self, client: FoundryAPIClient) -> None:
        request = BatchRequest(custom_id="a", url=RESPONSES_URL, body={"input": "say-hello"})
        [line] = await finished(LocalEngine(client), request)
        body = output(line)["response"]["body"]
        assert body["object"] == "response"
        assert body["status"] == "completed"
        assert HELLO in str(body["output"])

    @pytest.mark.parametrize("url", [RESPONSES_URL, EMBEDDINGS_URL])
    async def test_a_body_that_lacks_what_it_needs_fails_alone(
        self, client: FoundryAPIClient, url: BatchUrl
    ) -> None:
        bad = BatchRequest(custom_id="bad", url=url, body={"model": "embedder"})
        told = await finished(LocalEngine(client), bad, chat("good"))
        assert [each.failed for each in told] == [True, False]
        assert output(told[0])["response"] is None

    async def test_a_refusal_of_the_service_has_its_status(self) -> None:
        async with (
            FakeService(ErrorReply(400, "no such thing")) as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            [line] = await finished(LocalEngine(client), chat("a"))
        told = output(line)
        assert told["response"]["status_code"] == 400
        assert told["response"]["body"]["error"]["message"] == "no such thing"
        assert told["error"]["code"] == line.code == "InvalidRequest"

    async def test_messages_of_openais_own_answers_can_be_sent(
        self, client: FoundryAPIClient
    ) -> None:
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "ada"},
            {"role": "assistant", "content": "Hi", "refusal": None, "annotations": []},
            {"role": "user", "content": "say-hello"},
        ]
        request = BatchRequest(custom_id="a", body={"messages": messages})
        [line] = await finished(LocalEngine(client), request)
        assert not line.failed, line.output

    async def test_shared_answers_outlive_the_process(self, tmp_path: Path) -> None:
        async with (
            FakeService("Hello") as service,
            FoundryAPIClient(service.base_url, model="fake") as client,
        ):
            first = await finished(LocalEngine(client, dedupe=tmp_path), chat("a"), chat("b"))
            again = await finished(LocalEngine(client, dedupe=tmp_path), chat("c"))
        assert len(service.requests) == 1
        assert [each.shared for each in (*first, *again)] == [False, True, True]
        assert output(again[0])["custom_id"] == "c"

    async def test_its_state_tells_of_the_services(self, client: FoundryAPIClient) -> None:
        engine = LocalEngine(client)
        await finished(engine, chat("a"))
        state = engine.state()
        assert (state.in_flight, state.queued) == (0, 0)
        assert state.limit
        assert [each for _, each in state.services] == ["closed"]
