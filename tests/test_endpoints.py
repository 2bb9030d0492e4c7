"""Embeddings, transcriptions, responses and `client.request`, mostly on the real engine."""

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
from support.fakes.fake_legacy import FakeLegacyService
from support.scripted_model import script
from support.scripted_model.audio import (
    SILENCE,
    get_transcript,
    make_flac_header,
    make_silent_mp3,
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
    received: list[Event] = []
    client.events.subscribe(received.append)
    return received


def dot_product(left: Vector, right: Vector) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def temporary_recordings() -> set[Path]:
    """Return the temporary files that hold audio passed as bytes."""
    return set(Path(tempfile.gettempdir()).glob("foundry-api-*.audio"))


class TestEmbed:
    async def test_one_text_has_one_vector(self, client: FoundryAPIClient) -> None:
        embeddings = await client.embed("Hello", model="embedder")
        assert (len(embeddings), list(embeddings[0])) == (1, embedding("Hello"))
        assert embeddings.model == "embedder:1"
        assert embeddings.service_generation == "sdk-2.1"

    async def test_a_chat_model_of_an_own_engine_gets_no_request(self, engine: Endpoint) -> None:
        """The host reports where the files are; the client still knows that the model is loaded."""
        assert engine
        sent: list[str] = []

        def record(request: Request) -> Request:
            sent.append(request.url.partition("/v1/")[2])
            return request

        home = Path(os.environ["FOUNDRY_TEST_HOME"])
        async with FoundryAPIClient(home=home, max_retries=0, request_hooks=[record]) as client:
            await client.embed("Hello", model="embedder")
            await client.complete("say-hello", model="scripted")
            sent.clear()
            with pytest.raises(errors.ModelTaskMismatch, match="no output hidden_states"):
                await client.embed("Hello", model="scripted")
            await client.complete("say-hello", model="scripted")
        assert [route for route in sent if route] == ["chat/completions"]

    async def test_a_foreign_service_of_2_1_rejects_a_chat_model(self, engine: Endpoint) -> None:
        async with FoundryAPIClient(engine.base_url, max_retries=0) as client:
            with pytest.raises(errors.ModelTaskMismatch, match="'hidden_states' was not found"):
                await client.embed("Hello", model="scripted")

    async def test_a_chat_with_a_model_for_embeddings_is_not_repeated(
        self, engine: Endpoint
    ) -> None:
        async with FoundryAPIClient(engine.base_url, max_retries=3) as client:
            with pytest.raises(errors.ModelTaskMismatch, match="chat template") as caught:
                await client.complete("Hello", model="embedder")
        assert caught.value.attempts == 1

    async def test_a_text_to_embed_that_is_too_long(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.ContextOverflow, match="context_length") as caught:
            await client.embed("x " * 9000, model="embedder")
        assert caught.value.field == "prompt"
        assert caught.value.attempts == 1

    async def test_the_demo_model_embeds(self, client: FoundryAPIClient) -> None:
        """If it fails after an export, see tools/train_demo_model/hidden_states.py."""
        texts = ["What is the capital of France?", "Paris is the capital of France.", "A poem"]
        question, answer, other = await client.embed(texts, model="demo")
        assert math.isclose(sum(number * number for number in question), 1, rel_tol=1e-4)
        assert dot_product(question, answer) > dot_product(question, other)

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
    async def test_an_error_names_the_invalid_text(
        self, client: FoundryAPIClient, texts: Any, field: str, events: list[Event]
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            await client.embed(texts, model="embedder")
        assert caught.value.field == field
        assert events == []

    @pytest.mark.parametrize("size", [0, -1, True, 2.0, "3"])
    async def test_a_batch_size_is_a_positive_integer(
        self, client: FoundryAPIClient, size: Any
    ) -> None:
        with pytest.raises(errors.InvalidRequest, match="batch_size"):
            await client.embed("a", model="embedder", batch_size=size)

    async def test_events_have_the_operation_embeddings(
        self, client: FoundryAPIClient, events: list[Event]
    ) -> None:
        await client.embed(["a", "b"], model="embedder", batch_size=1)
        started = [event for event in events if isinstance(event, CallStarted)]
        ended = [event for event in events if isinstance(event, CallEnded)]
        assert [event.operation for event in (*started, *ended)] == ["embeddings"] * 4
        assert {event.outcome for event in ended} == {"answered"}

    async def test_the_deadline_applies_to_all_batches(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            await client.embed(["a"] * 2000, model="embedder", batch_size=1, deadline=0.2)
        assert client.limiter.statistics().in_flight == 0

    async def test_cancellation_leaves_no_request_in_flight(self, client: FoundryAPIClient) -> None:
        task = asyncio.create_task(client.embed(["a"] * 2000, model="embedder", batch_size=1))
        await wait_until_async(lambda: client.limiter.statistics().in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.limiter.statistics().in_flight == 0


class TestTranscribe:
    async def test_an_audio_file_is_transcribed(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        transcription = await client.transcribe(
            write_tone(tmp_path / "a tone.wav"), model="transcriber", language="en"
        )
        assert (transcription.text, transcription.model) == (get_transcript(), "transcriber:1")

    async def test_the_temporary_file_of_bytes_is_removed(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        content = write_tone(tmp_path / "tone.wav").read_bytes()
        before = temporary_recordings()
        transcription = await client.transcribe(
            content, model="transcriber", language="de", temperature=0
        )
        assert transcription.text == get_transcript("de")
        assert temporary_recordings() == before

    async def test_the_temporary_file_is_removed_when_a_stream_is_closed(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        content = write_tone(tmp_path / "tone.wav").read_bytes()
        before = temporary_recordings()
        chunks = client.stream_transcribe(content, model="transcriber", language="en")
        assert (await anext(chunks)).text == get_transcript()[0]
        assert len(temporary_recordings() - before) == 1
        await chunks.aclose()
        assert temporary_recordings() == before

    async def test_a_missing_language_is_an_error(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        tone = write_tone(tmp_path / "tone.wav")
        for language in (None, "auto"):
            with pytest.raises(errors.InvalidRequest, match="would listen for English") as caught:
                await client.transcribe(tone, model="transcriber", language=language)
            assert caught.value.field == "language"
        transcription = await client.transcribe(tone, model="transcriber", language="de-AT")
        assert transcription.text == get_transcript("de")

    async def test_audio_of_more_than_30_s_is_transcribed_in_parts(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        """The first 30 seconds are silent, and the next part has a sound at its end."""
        recording = write_sounds(tmp_path / "recording.wav", (31, 0), (3, 0.5))
        before = temporary_recordings()
        transcription = await client.transcribe(recording, model="transcriber", language="de")
        assert transcription.text == f"{SILENCE} {get_transcript('de')}"
        assert len(transcription.attempts) == 2
        assert transcription.timings.total_s > 0
        stream = client.stream_transcribe(
            recording.read_bytes(), model="transcriber", language="de"
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.text for chunk in chunks) == transcription.text
        assert [chunk.attempts for chunk in chunks[:-1] if chunk.attempts] == []
        assert len(chunks[-1].attempts) == 2
        assert temporary_recordings() == before

    async def test_closing_a_stream_in_the_second_part_removes_the_file(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        recording = write_sounds(tmp_path / "recording.wav", (31, 0), (3, 0.5))
        before = temporary_recordings()
        chunks = client.stream_transcribe(recording, model="transcriber", language="en")
        async for chunk in chunks:
            if chunk.text.startswith(" G"):
                break
        assert len(temporary_recordings() - before) == 1
        await chunks.aclose()
        assert temporary_recordings() == before

    async def test_an_error_of_a_later_part_has_the_text_before_it(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        recording = write_sounds(tmp_path / "recording.wav", (31, 0), (3, 0.5))
        chunks = client.stream_transcribe(recording, model="transcriber", language="en")
        await anext(chunks)
        recording.unlink()
        with pytest.raises(errors.InvalidRequest, match="cannot be read") as caught:
            [chunk async for chunk in chunks]
        assert caught.value.partial == SILENCE

    @pytest.mark.parametrize("kind", ["mp3", "flac"])
    async def test_a_long_recording_that_cannot_be_split_is_an_error(
        self, client: FoundryAPIClient, kind: str
    ) -> None:
        audio = {"mp3": make_silent_mp3(31.0), "flac": make_flac_header(57.8)}[kind]
        message = {"mp3": r"lasts 31\.0 s", "flac": r"lasts 57\.8 s"}[kind]
        with pytest.raises(errors.InvalidRequest, match=message) as caught:
            await client.transcribe(audio, model="transcriber", language="en")
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
    async def test_an_error_names_the_invalid_argument(
        self, client: FoundryAPIClient, audio: Any, options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            client.stream_transcribe(audio, model="transcriber", **options)
        assert caught.value.field == field

    async def test_a_prompt_that_would_be_ignored_is_an_error(
        self, client: FoundryAPIClient
    ) -> None:
        with pytest.raises(errors.UnsupportedParameter, match="ignores a prompt"):
            await client.transcribe(b"x", model="transcriber", prompt="Names: Ada")

    async def test_a_cli_service_receives_the_recording(self) -> None:
        async with (
            FakeLegacyService() as fake,
            FoundryAPIClient(fake.base_url, model=LEGACY, max_retries=0) as client,
        ):
            transcription = await client.transcribe(
                b"abc", model=LEGACY, language="de", prompt="Ada"
            )
            chunks = [chunk async for chunk in client.stream_transcribe(b"abc", model=LEGACY)]
        assert transcription.text == "3 bytes"
        assert [chunk.text for chunk in chunks] == ["3 bytes", ""]
        sent = fake.uploads[0]
        assert sent["file"] == b"abc"
        assert (sent["language"], sent["prompt"]) == (b"de", b"Ada")

    async def test_a_cli_service_without_the_route_is_an_error(self) -> None:
        async with (
            FakeLegacyService(transcribes=False) as fake,
            FoundryAPIClient(fake.base_url, max_retries=0) as client,
        ):
            with pytest.raises(errors.UnsupportedFeature, match="no such route"):
                await client.transcribe(b"abc", model=LEGACY)


class TestResponses:
    async def test_a_conversation_deletes_its_responses_at_the_end(
        self, client: FoundryAPIClient
    ) -> None:
        async with client.responses.conversation(instructions="Be brief.") as conversation:
            assert (await conversation.send("say-hello")).output_text == HELLO
            events = [event async for event in conversation.stream("And again?")]
            assert conversation.last == events[-1].response
            assert len((await client.responses.list()).responses) == 2
        assert (await client.responses.list()).responses == ()

    async def test_a_conversation_with_keep_keeps_its_responses(
        self, client: FoundryAPIClient
    ) -> None:
        async with client.responses.conversation(keep=True) as conversation:
            response = await conversation.send("say-hello")
        assert (await client.responses.get(response.id)).output_text == HELLO
        await client.responses.delete(response.id)

    async def test_output_items_can_be_the_next_input(self, client: FoundryAPIClient) -> None:
        first = await client.responses.create("say-hello")
        items = [{"role": "user", "content": "say-stop"}, *first.output]
        items.append({"role": "user", "content": "say-hello"})
        assert (await client.responses.create(items)).output_text == HELLO

    async def test_function_outputs_reach_the_model(self, client: FoundryAPIClient) -> None:
        """The function's output has the keyword of the answer."""
        response = await client.responses.create(
            [
                {"role": "user", "content": "What is it?"},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "say-hello"},
            ]
        )
        assert response.output_text == HELLO

    @pytest.mark.parametrize(
        ("input_", "options", "field"),
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
    async def test_an_error_names_the_invalid_argument(
        self, client: FoundryAPIClient, input_: Any, options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest) as caught:
            client.responses.stream(input_, **options)
        assert caught.value.field == field

    @pytest.mark.parametrize(
        "image_url",
        [
            "https://example.org/dot.png",
            "nowhere.png",
            "data:image/png;base64,%%%",
            "data:image/png",
            "data:text/plain,hello",
            "",
        ],
    )
    def test_an_error_names_the_invalid_image(
        self, client: FoundryAPIClient, image_url: str
    ) -> None:
        part = {"type": "input_image", "image_url": image_url}
        with pytest.raises(errors.InvalidRequest) as caught:
            client.responses.stream([{"role": "user", "content": [part]}])
        assert caught.value.field == "input[0].content[0].image_url"

    @pytest.mark.parametrize("limit", [0, 101, True, "3"])
    async def test_the_limit_of_a_list_is_between_1_and_100(
        self, client: FoundryAPIClient, limit: Any
    ) -> None:
        with pytest.raises(errors.InvalidRequest, match="limit"):
            await client.responses.list(limit=limit)

    async def test_stored_responses_are_deleted_with_their_client(
        self, client: FoundryAPIClient, engine: Endpoint
    ) -> None:
        async with FoundryAPIClient(engine.base_url, model="scripted", max_retries=0) as other:
            response = await other.responses.create("say-hello", store=True)
        with pytest.raises(errors.ResponseNotFound):
            await client.responses.get(response.id)

    async def test_a_closed_client_creates_no_response(self, engine: Endpoint) -> None:
        client = FoundryAPIClient(engine.base_url, model="scripted")
        await client.close()
        for call in (client.responses.create("Hi"), client.responses.list()):
            with pytest.raises(errors.ClientClosed):
                await call


class TestRequest:
    async def test_any_route_can_be_requested(
        self, client: FoundryAPIClient, engine: Endpoint
    ) -> None:
        reply = await client.request("get", "/status")
        assert (reply.status, reply.service) == (200, engine.base_url)
        assert reply.json()["endpoints"] == [engine.base_url]
        assert reply.headers["content-type"].startswith("application/json")

    async def test_a_request_with_a_body(
        self, client: FoundryAPIClient, events: list[Event]
    ) -> None:
        await client.models.load("scripted")
        messages = [{"role": "user", "content": "say-hello"}]
        body = {"model": "scripted:1", "messages": messages}
        reply = await client.request("POST", CHAT, json=body)
        assert reply.json()["choices"][0]["message"]["content"] == HELLO
        (ended,) = [event for event in events if isinstance(event, CallEnded)]
        assert (ended.operation, ended.model) == ("request", f"POST {CHAT}")

    async def test_a_request_with_a_query(self, client: FoundryAPIClient) -> None:
        reply = await client.request("GET", "/catalogs/local/v1/responses", params={"limit": 1})
        assert reply.json()["object"] == "list"

    async def test_error_responses_raise_typed_errors(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.RouteNotFound) as missing:
            await client.request("GET", "/v1/nothing")
        assert "method and the path" in missing.value.hint
        with pytest.raises(errors.ModelNotFound):
            await client.request("GET", "/catalogs/local/models/load/nobody")
        with pytest.raises(errors.InvalidRequest):
            await client.request("POST", CHAT, json={"model": "scripted:1"})

    async def test_a_body_that_is_not_json_is_a_protocol_error(
        self, client: FoundryAPIClient
    ) -> None:
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
    async def test_an_error_names_the_invalid_argument(
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
