"""Endpoints other than chat completions, on every generation that has them."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from conformance.services import EMBEDDER, EMBEDDER_VARIANT, LISTENER, MEASURED, SEER, VERSIONS
from foundry_api import FoundryAPIClient
from foundry_api.types import errors
from support.loopback_catalog import ALIAS
from support.scripted_model import prompt_tokens, script
from support.scripted_model.audio import SILENCE, get_transcript, write_tone
from support.scripted_model.embeddings import DIMENSIONS, embedding
from support.scripted_model.vision import DARK, LIGHT, write_image

if TYPE_CHECKING:
    from pathlib import Path

    from conformance.conftest import RawClient
    from conformance.expectations import Expected
    from conformance.services import Service

engines = pytest.mark.parametrize("service", VERSIONS, indirect=True)
real_ones = pytest.mark.parametrize("service", MEASURED, indirect=True)
of_sdk_2 = pytest.mark.parametrize("service", ["sdk-2.0", "sdk-2.1", "gateway"], indirect=True)
HELLO = script("say-hello").text
TEXTS = ["Hello", "the quick brown fox", "Crème brûlée \N{GRINNING FACE}", *map(str, range(40))]


class TestEmbeddings:
    @real_ones
    async def test_vectors_are_exact_and_in_order(
        self, client: FoundryAPIClient, expected: Expected
    ) -> None:
        made = await client.embed(TEXTS, model=EMBEDDER, batch_size=7)
        assert [list(vector) for vector in made] == [embedding(text) for text in TEXTS]
        assert made.dimensions == DIMENSIONS
        assert (made.usage is None) is not expected.counts_embedded_tokens
        assert made.model.startswith(EMBEDDER_VARIANT)
        assert len(made.attempts) == 7

    @real_ones
    @pytest.mark.parametrize("name", [EMBEDDER.upper(), EMBEDDER_VARIANT, f"{EMBEDDER_VARIANT}:1"])
    async def test_model_can_be_called_by_any_name(
        self, client: FoundryAPIClient, name: str
    ) -> None:
        assert list((await client.embed("Hello", model=name))[0]) == embedding("Hello")

    @real_ones
    async def test_chat_model_is_refused_and_the_service_survives(
        self, client: FoundryAPIClient, service: Service
    ) -> None:
        """The request would crash a service of SDK 1.x."""
        with pytest.raises(errors.ModelTaskMismatch, match="no embeddings") as caught:
            await client.embed("Hello", model=ALIAS)
        assert caught.value.attempts == 1
        assert service.process
        assert service.process.is_running()
        assert (await client.complete("say-hello")).content == HELLO

    @pytest.mark.parametrize("service", ["legacy", "cli-0.10"], indirect=True)
    async def test_unsupported_generation_gets_no_request(self, client: FoundryAPIClient) -> None:
        refusals = (errors.UnsupportedFeature, errors.ModelTaskMismatch)
        with pytest.raises(refusals, match="generation"):
            await client.embed("Hello", model=ALIAS)


class TestTranscription:
    @of_sdk_2
    @pytest.mark.parametrize("language", ["en", "de"])
    async def test_transcription_is_exact(
        self, client: FoundryAPIClient, tmp_path: Path, language: str
    ) -> None:
        tone = write_tone(tmp_path / "tone.wav")
        result = await client.transcribe(tone, model=LISTENER, language=language)
        assert result.text == get_transcript(language)
        assert result.raw

    @of_sdk_2
    async def test_transcription_streams(self, client: FoundryAPIClient, tmp_path: Path) -> None:
        quiet = write_tone(tmp_path / "quiet.wav", volume=0)
        stream = client.stream_transcribe(quiet, model=LISTENER, language="en")
        pieces = [piece async for piece in stream]
        assert [piece.text for piece in pieces] == [*SILENCE, ""]
        assert pieces[-1].timings
        assert pieces[-1].attempts

    @of_sdk_2
    async def test_invalid_audio_is_a_caller_error(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.InvalidRequest, match="AudioDecoder"):
            await client.transcribe(b"This is no sound at all.", model=LISTENER, language="en")

    @of_sdk_2
    async def test_chat_model_cannot_transcribe(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        with pytest.raises(errors.ModelTaskMismatch, match="audio transcription"):
            await client.transcribe(write_tone(tmp_path / "tone.wav"), model=ALIAS)

    @pytest.mark.parametrize("service", ["sdk-1", "cli-0.10"], indirect=True)
    async def test_unsupported_generation_gets_no_request(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        with pytest.raises(errors.UnsupportedFeature, match="does not transcribe"):
            await client.transcribe(write_tone(tmp_path / "tone.wav"), model=LISTENER)


class TestResponses:
    @real_ones
    async def test_response_is_exact(self, client: FoundryAPIClient, service: Service) -> None:
        made = await client.responses.create("Please say-hello.", metadata={"who": "tests"})
        assert (made.output_text, made.status) == (HELLO, "completed")
        assert (made.model, made.service_generation) == (service.model, service.service_generation)
        asked = prompt_tokens([{"role": "user", "content": "Please say-hello."}])
        assert made.usage
        assert made.usage.prompt_tokens == asked
        assert made.metadata == {"who": "tests"}
        assert not made.stored
        assert made.timings

    @real_ones
    async def test_messages_as_input(self, client: FoundryAPIClient) -> None:
        """1.2.4 requires "type": "message"."""
        made = await client.responses.create([{"role": "user", "content": "say-hello"}])
        assert made.output_text == HELLO

    @real_ones
    async def test_truncated_response_is_incomplete(self, client: FoundryAPIClient) -> None:
        made = await client.responses.create("say-long", max_output_tokens=6)
        assert (made.output_text, made.status) == (script("say-long").text[:6], "incomplete")
        assert made.incomplete_reason == "max_output_tokens"

    @real_ones
    async def test_events_end_with_the_complete_response(self, client: FoundryAPIClient) -> None:
        events = [each async for each in client.responses.stream("say-hello")]
        assert "".join(each.text for each in events) == HELLO
        assert events[0].type == "response.created"
        last = events[-1]
        assert last.type == "response.completed"
        assert last.response
        assert last.response.output_text == HELLO
        assert last.response.timings

    @real_ones
    async def test_failure_is_raised_as_its_type(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.ContextOverflow):
            await client.responses.create("x" * 9000)
        with pytest.raises(errors.ContextOverflow):
            async for _ in client.responses.stream("x" * 9000):
                pass

    @real_ones
    async def test_unknown_model_is_not_found(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.ModelNotFound):
            await client.responses.create("Hi", model="nobody-knows:7")

    @pytest.mark.parametrize("service", ["sdk-2.1"], indirect=True)
    async def test_long_prompt_gets_a_smaller_output_limit(self, client: FoundryAPIClient) -> None:
        """The service adds its default limit of 2048 tokens and refuses the sum."""
        made = await client.responses.create("x" * 7000)
        assert made.status == "completed"
        assert len(made.attempts) == 2

    @real_ones
    async def test_stored_response_is_kept_until_deleted(self, client: FoundryAPIClient) -> None:
        responses = client.responses
        made = await responses.create("say-hello", store=True)
        assert made.stored
        assert (await responses.get(made.id)).output_text == HELLO
        (item,) = await responses.input_items(made.id)
        assert (item.role, item.text) == ("user", "say-hello")
        assert made.id in [each.id for each in (await responses.list()).responses]
        await responses.delete(made.id)
        for look in (responses.get, responses.input_items, responses.delete):
            with pytest.raises(errors.ResponseNotFound):
                await look(made.id)

    @real_ones
    async def test_list_is_paged_the_same_way(self, client: FoundryAPIClient) -> None:
        """The services themselves accept any order, limit and cursor."""
        responses = client.responses
        ids = [await stored_in_a_second_of_its_own(client) for _ in range(3)]
        page = await responses.list(limit=2, order="asc")
        assert ([each.id for each in page.responses], page.has_more) == (ids[:2], True)
        rest = await responses.list(order="asc", after=ids[1])
        assert ([each.id for each in rest.responses], rest.has_more) == (ids[2:], False)
        newest = await responses.list(limit=1)
        assert newest.responses[0].id == ids[2]
        with pytest.raises(errors.ResponseNotFound):
            await responses.list(after="resp_of_nobody")
        for name in reversed(ids):
            await responses.delete(name)

    @real_ones
    async def test_response_continues_another(self, client: FoundryAPIClient) -> None:
        async with client.responses.conversation() as conversation:
            await conversation.send("say-hello")
            again = await conversation.send("And what was that?")
            assert again.previous_response_id
            assert again.output_text in {HELLO, script("say-default").text}
        assert (await client.responses.list()).responses == ()

    @real_ones
    async def test_unknown_previous_response_is_an_error(self, client: FoundryAPIClient) -> None:
        """1.2.4 and 2.0.1 would answer without the earlier turns."""
        made = await client.responses.create("say-hello")
        with pytest.raises(errors.ResponseNotFound):
            await client.responses.create("And?", previous_response_id=made.id)

    @real_ones
    async def test_closing_a_client_deletes_its_responses(
        self, client: FoundryAPIClient, service: Service
    ) -> None:
        async with FoundryAPIClient(service.base_url, model=ALIAS, max_retries=0) as other:
            await other.responses.create("say-hello", store=True)
            kept = await other.responses.create("say-hello", store=True, keep=True)
        left = (await client.responses.list()).responses
        assert [each.id for each in left] == [kept.id]
        await client.responses.delete(kept.id)

    @real_ones
    async def test_stored_response_does_not_block_unloading(self, client: FoundryAPIClient) -> None:
        await client.responses.create("say-hello", store=True)
        await client.models.unload(ALIAS)
        assert (await client.responses.create("say-hello")).output_text == HELLO

    @engines
    async def test_image_is_refused_for_a_text_model(
        self, client: FoundryAPIClient, tmp_path: Path
    ) -> None:
        """1.2.4 would ignore it silently."""
        (tmp_path / "dot.gif").write_bytes(b"GIF89a\1\0\1\0\0\0\0;")
        image = {"type": "input_image", "image_url": str(tmp_path / "dot.gif")}
        parts = [{"type": "input_text", "text": "say-hello"}, image]
        with pytest.raises(errors.ModelTaskMismatch):
            await client.responses.create([{"role": "user", "content": parts}])

    @engines
    @pytest.mark.parametrize(("level", "answer"), [(255, LIGHT), (0, DARK)])
    async def test_image_reaches_a_vision_model(
        self, client: FoundryAPIClient, tmp_path: Path, level: int, answer: str
    ) -> None:
        path = write_image(tmp_path / "image.png", level=level)
        image = {"type": "input_image", "image_url": str(path)}
        parts = [{"type": "input_text", "text": "What do you see?"}, image]
        made = await client.responses.create([{"role": "user", "content": parts}], model=SEER)
        assert made.output_text == answer

    @real_ones
    async def test_schema_is_enforced_or_refused(
        self, client: FoundryAPIClient, expected: Expected
    ) -> None:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        text_format = {"format": {"type": "json_schema", "name": "nothing", "schema": schema}}
        if expected.enforces:
            made = await client.responses.create(
                "say-hello", text=text_format, max_output_tokens=20
            )
            assert made.output_text.lstrip().startswith("{")
        else:
            with pytest.raises(errors.UnsupportedFeature, match="json_schema"):
                await client.responses.create("say-hello", text=text_format)

    @pytest.mark.parametrize("service", ["legacy", "cli-0.10"], indirect=True)
    async def test_unsupported_generation_has_no_responses(self, client: FoundryAPIClient) -> None:
        with pytest.raises(errors.UnsupportedFeature, match="no Responses API"):
            await client.responses.create("Hi")
        with pytest.raises(errors.UnsupportedFeature, match="no Responses API"):
            await client.responses.list()


async def stored_in_a_second_of_its_own(client: FoundryAPIClient) -> str:
    """1.2.4 sorts them by seconds, in any order within a second."""
    made = await client.responses.create("say-hello", store=True)
    while time.time() < made.created_at + 1:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.02)
    return made.id


@pytest.mark.parametrize("service", ["sdk-2.1", "sdk-1"], indirect=True)
async def test_leaving_the_events_early_frees_the_engine(
    client: FoundryAPIClient, raw: RawClient, service: Service
) -> None:
    """Without it, the abandoned answer would take most of a minute."""
    async with aclosing(client.responses.stream("say-slowly")) as events:
        async for event in events:
            if event.text:
                break
    before = service.cpu_s()
    await asyncio.sleep(0.5)
    assert service.cpu_s() - before < 0.3
    assert (await raw.choice("say-hello"))["message"]["content"] == HELLO
