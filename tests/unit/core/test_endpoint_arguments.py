"""What is refused or put right before it is sent to an endpoint, whatever a caller passes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.embeddings import validate_texts
from foundry_api.core.raw_request import make_raw_request
from foundry_api.core.responses import (
    MAX_IMAGE_BYTES,
    ResponseOperation,
    build_operation,
    has_images,
    make_input_items,
    validate_response_id,
)
from foundry_api.core.transcriptions import (
    select_language,
    transcription_options,
    validate_language,
)
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import ContextOverflow, InvalidRequest, UnsupportedFeature
from support.scripted_model.vision import png

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.models.task import Speech

BASE = "http://127.0.0.1:5273"
DOT = png(level=255)
DATA_URL = "data:image/png;base64," + base64.b64encode(DOT).decode()


class TestRequests:
    @given(st.text())
    def test_no_path_leads_to_another_host(self, path: str) -> None:
        try:
            request = make_raw_request("GET", path)
        except InvalidRequest:
            return
        parts = urlsplit(BASE + request.path)
        assert f"{parts.scheme}://{parts.netloc}" == BASE
        assert request.path.isascii()
        assert request.path.isprintable()

    def test_a_query_is_encoded(self) -> None:
        request = make_raw_request("get", "/a", params={"b": "c d&e", "f": True, "g": 1.5})
        assert (request.method, request.path) == ("GET", "/a?b=c+d%26e&f=true&g=1.5")
        assert make_raw_request("GET", "/a?b=c", params={"d": 1}).path == "/a?b=c&d=1"

    def test_its_name_has_neither_query_nor_ids(self) -> None:
        """Names become labels of metrics, of which there must not be one for each id."""
        path = "/v1/responses/resp_5e3fa63649c4202f55ebc6db1b6f07e1/input_items"
        request = make_raw_request("GET", path, params={"key": "secret"})
        assert request.name == "GET /v1/responses/{id}/input_items"
        assert make_raw_request("GET", "/v1/models").name == "GET /v1/models"

    def test_a_body_is_json_and_says_so(self) -> None:
        request = make_raw_request("POST", "/a", json={"b": 1}, headers={"X-A": "b"})
        assert request.body == b'{"b":1}'
        assert request.headers == {"Content-Type": "application/json", "X-A": "b"}
        assert make_raw_request("POST", "/a").body is None


class TestTexts:
    def test_one_or_several(self) -> None:
        assert validate_texts("a") == ("a",)
        assert validate_texts(text for text in ("a", "b")) == ("a", "b")

    @given(st.lists(st.text(), min_size=1))
    def test_those_that_pass_are_sent_as_they_are(self, texts: list[str]) -> None:
        refused = [text for text in texts if not text.strip() or "\0" in text]
        if not refused:
            assert validate_texts(texts) == tuple(texts)
            return
        with pytest.raises(InvalidRequest) as caught:
            validate_texts(texts)
        assert caught.value.field == f"texts[{texts.index(refused[0])}]"


class TestLanguages:
    @pytest.mark.parametrize("language", ["de", "DE", "en-US", "haw", "auto", "zh-CN"])
    def test_those_that_an_engine_knows_are_passed_on(self, language: str) -> None:
        assert transcription_options(language, None, None) == {"language": language.lower()}

    @pytest.mark.parametrize("language", ["xx", "german", "", "d"])
    def test_others_would_be_heard_as_english(self, language: str) -> None:
        with pytest.raises(InvalidRequest, match="language"):
            transcription_options(language, None, None)

    @pytest.mark.parametrize(
        ("speech", "given", "sent"),
        [
            ("whisper", "de", "de"),
            ("whisper", "DE", "de"),
            ("whisper", "de_AT", "de"),
            ("whisper", "nb", "no"),
            ("english", None, "en"),
            ("english", "auto", "en"),
            ("english", "en-GB", "en"),
            ("nemotron", None, "auto"),
            ("nemotron", "auto", "auto"),
            ("nemotron", "en-GB", "en-gb"),
            ("nemotron", "de-AT", "de"),
            ("nemotron", "zh", "zh-cn"),
            ("nemotron", "no", "nb"),
        ],
    )
    def test_the_engine_is_told_what_it_understands(
        self, speech: Speech, given: str | None, sent: str
    ) -> None:
        code = None if given is None else validate_language(given)
        assert select_language(speech, code, "m:1") == sent

    @pytest.mark.parametrize(
        ("speech", "given", "told"),
        [
            ("whisper", None, "cannot have m:1 detect it"),
            ("whisper", "auto", "cannot have m:1 detect it"),
            ("english", "de", "'de', which m:1 does not know"),
            ("nemotron", "haw", "'haw', which m:1 does not know"),
        ],
    )
    def test_what_it_would_take_for_another_is_refused(
        self, speech: Speech, given: str | None, told: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=told) as caught:
            select_language(speech, given, "m:1")
        assert caught.value.field == "language"


class TestImages:
    def item(self, place: str) -> dict[str, Any]:
        (item,) = make_input_items(
            [{"role": "user", "content": [{"type": "input_image", "image_url": place}]}]
        )
        assert isinstance(item, dict)
        part: dict[str, Any] = item["content"][0]
        return part

    def test_a_file_is_sent_in_the_request(self, tmp_path: Path) -> None:
        """So it may lie on another machine than the service."""
        (tmp_path / "dot").write_bytes(DOT)
        told = self.item(str(tmp_path / "dot"))
        assert (told["image_url"], told["media_type"]) == (DATA_URL, "image/png")

    def test_a_data_url_stays_one(self) -> None:
        assert self.item(DATA_URL)["image_url"] == DATA_URL

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"\xff\xd8\xff\xe0", "image/jpeg"),
            (b"GIF89a", "image/gif"),
            (b"BM....", "image/bmp"),
            (b"RIFF....WEBP", "image/webp"),
        ],
    )
    def test_the_bytes_tell_the_kind_and_not_the_name(
        self, tmp_path: Path, content: bytes, kind: str
    ) -> None:
        (tmp_path / "image.png").write_bytes(content)
        assert self.item(str(tmp_path / "image.png"))["media_type"] == kind

    def test_one_that_is_too_large_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "large.png").write_bytes(DOT + bytes(MAX_IMAGE_BYTES))
        with pytest.raises(InvalidRequest, match="can be sent"):
            self.item(str(tmp_path / "large.png"))

    def test_whether_there_is_one_is_seen(self) -> None:
        assert not has_images("text")
        assert not has_images([{"type": "function_call_output", "output": "x"}])
        assert not has_images([{"content": "x"}, {"content": [{"type": "input_text"}]}])
        assert has_images([{"content": [{"type": "input_text"}, {"type": "input_image"}]}])


class TestResponses:
    def test_messages_say_that_they_are(self) -> None:
        (item,) = make_input_items([{"role": "user", "content": [{"type": "text", "text": "x"}]}])
        assert item == {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "x"}],
        }

    def test_tools_of_chat_completions_are_tools_of_responses(self) -> None:
        function = {"name": "f", "parameters": {"type": "object"}}
        made = build_operation("x", {"tools": [{"type": "function", "function": function}]})
        assert made.members["tools"] == [{"type": "function", **function}]

    @given(st.text())
    def test_an_id_is_a_part_of_a_path_and_no_way_out_of_it(self, text: str) -> None:
        try:
            assert "/" not in validate_response_id("id", text)
        except InvalidRequest:
            return
        assert text not in {".", ".."}

    def test_only_a_generation_that_keeps_to_a_schema_is_asked_to(self) -> None:
        wanted = {"format": {"type": "json_schema", "name": "n", "schema": {}}}
        made = build_operation("x", {"text": wanted})
        made.check(CAPABILITIES["sdk-2.1"])
        for generation in ("sdk-2.0", "sdk-1"):
            with pytest.raises(UnsupportedFeature, match="json_schema"):
                made.check(CAPABILITIES[generation])
        build_operation("x", {"text": {"format": {"type": "text"}}}).check(CAPABILITIES["sdk-1"])

    def test_a_seed_has_the_bounds_of_its_generation(self) -> None:
        made = build_operation("x", {"seed": 2**40})
        made.check(CAPABILITIES["sdk-2.1"])
        with pytest.raises(InvalidRequest, match="seed"):
            made.check(CAPABILITIES["sdk-1"])

    def test_what_fits_is_asked_for_when_the_default_does_not(self) -> None:
        overflow = ContextOverflow("x", prompt_tokens=90, max_tokens=2048, context_length=100)
        amended = build_operation("x", {}).amend(overflow)
        assert isinstance(amended, ResponseOperation)
        assert amended.members["max_output_tokens"] == 10
        assert build_operation("x", {"max_output_tokens": 20}).amend(overflow) is None
        full = ContextOverflow("x", prompt_tokens=100, max_tokens=2048, context_length=100)
        assert build_operation("x", {}).amend(full) is None
        assert (full.field, full.max_tokens) == ("prompt", None)
        assert "no room for an answer in the model's context of 100" in full.message
