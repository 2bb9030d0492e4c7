"""Embeddings, transcriptions, responses and any request, as callers use them: a real engine's."""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import FoundryAPIClient
from foundry_api.types import errors
from foundry_api.types.events import CallEnded, CallStarted
from service.helpers import wait_until_async
from support.fakes.fake_legacy import LegacyServiceDouble
from support.scripted_model import script
from support.scripted_model.audio import (
    SILENCE,
    flac_head,
    heard,
    silent_mp3,
    write_sounds,
    write_tone,
)
from support.scripted_model.embeddings import embedding

if TYPE_CHECKING:
    from foundry_api import Event
    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.types.results import Vector
    from foundry_api.wire.transport import Request

HELLO = script("say-hello").text
LEGACY = "scripted-mini"
CHAT = "/catalogs/local/v1/chat/completions"


@pytest.fixture
def events(client: FoundryAPIClient) -> list[Event]:
    told: list[Event] = []
    client.events.subscribe(told.append)
    return told


def likeness(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def recordings() -> set[Path]:
    """The files that were made of bytes, in this machine's directory for such."""
    return set(Path(tempfile.gettempdir()).glob("foundry-api-*.audio"))


class TestEmbed:
    async def test_one_text_has_one_vector(self, client: FoundryAPIClient) -> None:
        made = await client.embed("Hello", model="embedder")
        assert (len(made), list(made[0])) == (1, embedding("Hello"))
        assert made.model == "embedder:1"
        assert made.service_generation == "sdk-2.1"

    async def test_a_chat_model_of_our_own_engine_is_not_even_asked(self, engine: Endpoint) -> None:
        """The host tells where the files lie; and nothing is forgotten of the model for it."""
        assert engine
        sent: list[str] = []

        def watch(request: Request) -> Request:
            sent.append(request.url.partition("/v1/")[2])
            return request

        home = Path(os.environ["FOUNDRY_TEST_HOME"])
        async with FoundryAPIClient(home=home, max_retries=0, request_hooks=[watch]) as client:
            await client.embed("Hello", model="embedder")
            await client.complete("say-hello", model="scripted")
            sent.clear()
            with pytest.raises(errors.ModelTaskMismatch, match="no output hidden_states"):
                await client.embed("Hello", model="scripted")
            await client.complete("say-hello", model="scripted")
        assert [route for route in sent if route] == ["chat/completions"]

    async def test_a_foreign_service_of_2_1_tells_by_itself(self, engine: Endpoint) -> None:
        async with FoundryAPIClient(engine.base_url, max_retries=0) as client:
            with pytest.raises(errors.ModelTaskMismatch, match="'hidden_states' was not found"):
                await client.embed("Hello", model="scripted")

    async def test_the_demo_model_embeds(self, client: FoundryAPIClient) -> None:
        """If it does not after an export: tools/train_demo_model/hidden_states.py."""
        texts = ["What is the capital of France?", "Paris is the capital of France.", "A poem"]
        asked, answer, other = await client.embed(texts, model="demo")
        assert math.isclose(sum(number * number for number in asked), 1, rel_tol=1e-4)
        assert likeness(asked, answer) > likeness(asked, other)

    @pytest.mark.parametrize(
        ("texts", "field"),
        [
            ("", "texts"),
            (" \n", "texts"),
            ([], "texts"),
            (3, "texts"),
            (["a", ""], "texts[1]"),
            (["a", "b\0"], "texts[1]"),
            (["\ud800"], "texts[0]"),
            (["a", "b", "c", 3], "texts[3]"),
        ],
    )
    async def test_what_cannot_be_embedded_is_named(
        self, client: FoundryAPIClient, texts: Any, field: str, events: list[Event]
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            await client.embed(texts, model="embedder")
        assert caught.value.field == field
        assert events == []

    @pytest.mark.parametrize("size", [0, -1, True, 2.0, "3"])
    async def test_a_batch_has_a_text_or_more(self, client: FoundryAPIClient, size: Any) -> None:
        with pytest.raises(errors.InvalidRequest, match="batch_size"):
            await client.embed("a", model="embedder", batch_size=size)

    async def test_it_is_told_as_what_it_is(
        self, client: FoundryAPIClient, events: list[Event]
    ) -> None:
        await client.embed(["a", "b"], model="embedder", batch_size=1)
        started = [each for each in events if isinstance(each, CallStarted)]
        ended = [each for each in events if isinstance(each, CallEnded)]
        assert [each.operation for each in (*started, *ended)] == ["embeddings"] * 4
        assert {each.outcome for each in ended} == {"answered"}

    async def test_a_deadline_is_that_of_all_the_batches(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            await client.embed(["a"] * 10_000, model="embedder", batch_size=1, deadline=0.2)
        assert client.limiter.statistics().in_flight == 0

    async def test_who_gives_up_leaves_nothing_behind(self, client: FoundryAPIClient) -> None:
        task = asyncio.create_task(client.embed(["a"] * 10_000, model="embedder", batch_size=1))
        await wait_until_async(lambda: client.limiter.statistics().in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.limiter.statistics().in_flight == 0


class TestTranscribe:
    async def test_a_file_is_heard(self, client: FoundryAPIClient, tmp_path: Path) -> None:
        told = await client.transcribe(
            write_tone(tmp_path / "a tone.wav"), model="transcriber", language="en"
        )
        assert (told.text, told.model) == (heard(), "transcriber:1")

    async def test_bytes_become_a_file_that_is_cleared_away(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        content = write_tone(tmp_path / "tone.wav").read_bytes()
        before = recordings()
        told = await client.transcribe(content, model="transcriber", language="de", temperature=0)
        assert told.text == heard("de")
        assert recordings() == before

    async def test_also_when_the_caller_leaves(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        content = write_tone(tmp_path / "tone.wav").read_bytes()
        before = recordings()
        pieces = client.stream_transcribe(content, model="transcriber", language="en")
        assert (await anext(pieces)).text == heard()[0]
        assert len(recordings() - before) == 1
        await pieces.aclose()
        assert recordings() == before

    async def test_without_a_language_english_is_not_assumed(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        tone = write_tone(tmp_path / "tone.wav")
        for language in (None, "auto"):
            with pytest.raises(errors.InvalidRequest, match="would listen for English") as caught:
                await client.transcribe(tone, model="transcriber", language=language)
            assert caught.value.field == "language"
        told = await client.transcribe(tone, model="transcriber", language="de-AT")
        assert told.text == heard("de")

    async def test_what_is_beyond_half_a_minute_is_heard(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        """The first half minute is silent, and the second has a sound at its end."""
        talk = write_sounds(tmp_path / "talk.wav", (31, 0), (3, 0.5))
        before = recordings()
        told = await client.transcribe(talk, model="transcriber", language="de")
        assert told.text == f"{SILENCE} {heard('de')}"
        assert len(told.attempts) == 2
        assert told.timings.total_s > 0
        stream = client.stream_transcribe(talk.read_bytes(), model="transcriber", language="de")
        pieces = [piece async for piece in stream]
        assert "".join(piece.text for piece in pieces) == told.text
        assert [piece.attempts for piece in pieces[:-1] if piece.attempts] == []
        assert len(pieces[-1].attempts) == 2
        assert recordings() == before

    async def test_who_leaves_within_the_second_part_leaves_no_file(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        talk = write_sounds(tmp_path / "talk.wav", (31, 0), (3, 0.5))
        before = recordings()
        pieces = client.stream_transcribe(talk, model="transcriber", language="en")
        async for piece in pieces:
            if piece.text.startswith(" G"):
                break
        assert len(recordings() - before) == 1
        await pieces.aclose()
        assert recordings() == before

    async def test_a_recording_that_is_gone_within_leaves_the_text_before(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        talk = write_sounds(tmp_path / "talk.wav", (31, 0), (3, 0.5))
        pieces = client.stream_transcribe(talk, model="transcriber", language="en")
        await anext(pieces)
        talk.unlink()
        with pytest.raises(errors.InvalidRequest, match="cannot be read") as caught:
            [piece async for piece in pieces]
        assert caught.value.partial == SILENCE

    @pytest.mark.parametrize("kind", ["mp3", "flac"])
    async def test_what_cannot_be_divided_is_refused_with_its_duration(
        self, client: FoundryAPIClient, kind: str
    ) -> None:
        sound = {"mp3": silent_mp3(31.0), "flac": flac_head(57.8)}[kind]
        told = {"mp3": r"lasts 31\.0 s", "flac": r"lasts 57\.8 s"}[kind]
        with pytest.raises(errors.InvalidRequest, match=told) as caught:
            await client.transcribe(sound, model="transcriber", language="en")
        assert caught.value.field == "audio"

    @pytest.mark.parametrize(
        ("audio", "options", "field"),
        [
            (b"", {}, "audio"),
            (3, {}, "audio"),
            ("nowhere.wav", {}, "audio"),
            (tempfile.gettempdir(), {}, "audio"),
            ("x\0.wav", {}, "audio"),
            (b"x", {"language": "xx"}, "language"),
            (b"x", {"language": 3}, "language"),
            (b"x", {"temperature": 1.5}, "temperature"),
            (b"x", {"prompt": ""}, "prompt"),
            (b"x", {"timeout": 0}, "timeout"),
        ],
    )
    async def test_what_is_wrong_is_named(
        self, client: FoundryAPIClient, audio: Any, options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            client.stream_transcribe(audio, model="transcriber", **options)
        assert caught.value.field == field

    async def test_a_prompt_that_would_be_ignored_is_refused(
        self, client: FoundryAPIClient
    ) -> None:
        with pytest.raises(errors.UnsupportedFeature, match="ignores a prompt"):
            await client.transcribe(b"x", model="transcriber", prompt="Names: Ada")

    async def test_the_command_lines_service_is_sent_the_recording(self) -> None:
        async with (
            LegacyServiceDouble() as double,
            FoundryAPIClient(double.base_url, model=LEGACY, max_retries=0) as client,
        ):
            told = await client.transcribe(b"abc", model=LEGACY, language="de", prompt="Ada")
            pieces = [each async for each in client.stream_transcribe(b"abc", model=LEGACY)]
        assert told.text == "3 bytes"
        assert [piece.text for piece in pieces] == ["3 bytes", ""]
        sent = double.uploads[0]
        assert sent["file"] == b"abc"
        assert (sent["language"], sent["prompt"]) == (b"de", b"Ada")

    async def test_or_says_that_it_has_no_such_route(self) -> None:
        async with (
            LegacyServiceDouble(transcribes=False) as double,
            FoundryAPIClient(double.base_url, max_retries=0) as client,
        ):
            with pytest.raises(errors.UnsupportedFeature, match="no such route"):
                await client.transcribe(b"abc", model=LEGACY)


class TestResponses:
    async def test_a_conversation_is_released_at_its_end(self, client: FoundryAPIClient) -> None:
        async with client.responses.conversation(instructions="Be brief.") as talk:
            assert (await talk.send("say-hello")).output_text == HELLO
            events = [event async for event in talk.stream("And again?")]
            assert talk.last == events[-1].response
            assert len((await client.responses.list()).responses) == 2
        assert (await client.responses.list()).responses == ()

    async def test_on_request_it_is_kept(self, client: FoundryAPIClient) -> None:
        async with client.responses.conversation(keep=True) as talk:
            said = await talk.send("say-hello")
        assert (await client.responses.get(said.id)).output_text == HELLO
        await client.responses.delete(said.id)

    async def test_items_of_one_are_an_input_of_the_next(self, client: FoundryAPIClient) -> None:
        first = await client.responses.create("say-hello")
        asked = [{"role": "user", "content": "say-stop"}, *first.output]
        asked.append({"role": "user", "content": "say-hello"})
        assert (await client.responses.create(asked)).output_text == HELLO

    async def test_functions_outputs_reach_the_model(self, client: FoundryAPIClient) -> None:
        """It names the script to recite."""
        made = await client.responses.create(
            [
                {"role": "user", "content": "What is it?"},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "say-hello"},
            ]
        )
        assert made.output_text == HELLO

    @pytest.mark.parametrize(
        ("said", "options", "field"),
        [
            ("", {}, "input"),
            (3, {}, "input"),
            ([], {}, "input"),
            ({"role": "user"}, {}, "input"),
            ("a\0", {}, "input"),
            ([3], {}, "input[0]"),
            ([{"content": "x"}], {}, "input[0]"),
            ([{"role": "user", "content": ""}], {}, "input[0].content"),
            ([{"role": "user", "content": [{"text": "x"}]}], {}, "input[0].content[0]"),
            ("x", {"instructions": 5}, "instructions"),
            ("x", {"model": ""}, "model"),
            ("x", {"store": "no"}, "store"),
            ("x", {"text": 5}, "text"),
            ("x", {"tool_choice": 5}, "tool_choice"),
            ([{"role": "system", "content": ""}], {}, "input"),
            ("x", {"previous_response_id": "../../models/unload/x"}, "previous_response_id"),
            ("x", {"temperature": 2.1}, "temperature"),
            ("x", {"max_output_tokens": 0}, "max_output_tokens"),
            ("x", {"max_output_tokens": 2.0}, "max_output_tokens"),
            ("x", {"seed": "1"}, "seed"),
            ("x", {"metadata": {"a": 1}}, "metadata['a']"),
            ("x", {"extra": {"a": object()}}, "extra"),
            ("x", {"timeout": -1}, "timeout"),
        ],
    )
    async def test_what_cannot_be_sent_is_named(
        self, client: FoundryAPIClient, said: Any, options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            client.responses.stream(said, **options)
        assert caught.value.field == field

    @pytest.mark.parametrize(
        "place",
        [
            "https://example.org/dot.png",
            "nowhere.png",
            "data:image/png;base64,%%%",
            "data:image/png",
            "data:text/plain,hello",
            "",
        ],
    )
    def test_what_is_no_image_is_named(self, client: FoundryAPIClient, place: str) -> None:
        part = {"type": "input_image", "image_url": place}
        with pytest.raises(errors.InvalidRequest) as caught:
            client.responses.stream([{"role": "user", "content": [part]}])
        assert caught.value.field == "input[0].content[0].image_url"

    @pytest.mark.parametrize("limit", [0, 101, True, "3"])
    async def test_a_list_has_bounds(self, client: FoundryAPIClient, limit: Any) -> None:
        with pytest.raises(errors.InvalidRequest, match="limit"):
            await client.responses.list(limit=limit)

    async def test_what_was_stored_at_a_shared_engine_goes_with_its_client(
        self, client: FoundryAPIClient, engine: Endpoint
    ) -> None:
        async with FoundryAPIClient(engine.base_url, model="scripted", max_retries=0) as other:
            made = await other.responses.create("say-hello", store=True)
        with pytest.raises(errors.ResponseNotFound):
            await client.responses.get(made.id)

    async def test_a_closed_client_makes_none(self, engine: Endpoint) -> None:
        client = FoundryAPIClient(engine.base_url, model="scripted")
        await client.close()
        for call in (client.responses.create("Hi"), client.responses.list()):
            with pytest.raises(errors.ClientClosed):
                await call


class TestRequest:
    async def test_any_route_can_be_asked(self, client: FoundryAPIClient, engine: Endpoint) -> None:
        reply = await client.request("get", "/status")
        assert (reply.status, reply.service) == (200, engine.base_url)
        assert reply.json()["endpoints"] == [engine.base_url]
        assert reply.headers["content-type"].startswith("application/json")

    async def test_with_a_body(self, client: FoundryAPIClient, events: list[Event]) -> None:
        await client.models.load("scripted")
        messages = [{"role": "user", "content": "say-hello"}]
        asked = {"model": "scripted:1", "messages": messages}
        reply = await client.request("POST", CHAT, json=asked)
        assert reply.json()["choices"][0]["message"]["content"] == HELLO
        (ended,) = [each for each in events if isinstance(each, CallEnded)]
        assert (ended.operation, ended.model) == ("request", f"POST {CHAT}")

    async def test_with_a_query(self, client: FoundryAPIClient) -> None:
        reply = await client.request("GET", "/catalogs/local/v1/responses", params={"limit": 1})
        assert reply.json()["object"] == "list"

    async def test_an_error_is_raised_as_what_it_is(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.RouteNotFound) as missing:
            await client.request("GET", "/v1/nothing")
        assert "method and the path" in missing.value.hint
        with pytest.raises(errors.ModelNotFound):
            await client.request("GET", "/catalogs/local/models/load/nobody")
        with pytest.raises(errors.InvalidRequest):
            await client.request("POST", CHAT, json={"model": "scripted:1"})

    async def test_what_is_not_json_is_told(self, client: FoundryAPIClient) -> None:
        reply = await client.request("GET", "/status")
        broken = type(reply)(status=200, headers={}, body=b"<html>", service=reply.service)
        assert broken.text == "<html>"
        with pytest.raises(errors.ProtocolError, match="not JSON"):
            broken.json()

    @pytest.mark.parametrize(
        ("arguments", "options", "field"),
        [
            (("", "/status"), {}, "method"),
            (("GET /x HTTP/1.1\r\n", "/status"), {}, "method"),
            ((3, "/status"), {}, "method"),
            (("GET", "status"), {}, "path"),
            (("GET", "//elsewhere/status"), {}, "path"),
            (("GET", "http://elsewhere/status"), {}, "path"),
            (("GET", "/a b"), {}, "path"),
            (("GET", "/a\r\nb"), {}, "path"),
            (("GET", "/ü"), {}, "path"),
            (("GET", "/a#b"), {}, "path"),
            (("GET", "/"), {"params": {"a": object()}}, "params"),
            (("GET", "/"), {"headers": {"a": "b\r\nc"}}, "headers"),
            (("GET", "/"), {"headers": {"a b": "c"}}, "headers"),
            (("GET", "/"), {"headers": {"Host": "c"}}, "headers"),
            (("GET", "/"), {"headers": {"a": 3}}, "headers"),
            (("POST", "/"), {"json": object()}, "json"),
            (("GET", "/"), {"timeout": 0}, "timeout"),
        ],
    )
    async def test_what_cannot_be_sent_is_named(
        self,
        client: FoundryAPIClient,
        events: list[Event],
        arguments: tuple[Any, Any],
        options: dict[str, Any],
        field: str,
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            await client.request(*arguments, **options)
        assert caught.value.field == field
        assert events == []
