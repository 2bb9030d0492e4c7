"""Arguments of the endpoints: what is rejected and what is normalized before it is sent."""

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
    make_transcription_options,
    select_language,
    validate_language,
)
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import ContextOverflow, InvalidRequest, UnsupportedFeature
from support.scripted_model.vision import make_png

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.models.task import Speech

BASE = "http://127.0.0.1:5273"
DOT = make_png(level=255)
DATA_URL = "data:image/png;base64," + base64.b64encode(DOT).decode()


class TestRequests:
    @given(st.text())
    def test_path_cannot_lead_to_another_host(self, path: str) -> None:
        try:
            request = make_raw_request("GET", path)
        except InvalidRequest:
            return
        parts = urlsplit(BASE + request.path)
        assert f"{parts.scheme}://{parts.netloc}" == BASE
        assert request.path.isascii()
        assert request.path.isprintable()

    def test_query_is_encoded(self) -> None:
        request = make_raw_request("get", "/a", params={"b": "c d&e", "f": True, "g": 1.5})
        assert (request.method, request.path) == ("GET", "/a?b=c+d%26e&f=true&g=1.5")
        assert make_raw_request("GET", "/a?b=c", params={"d": 1}).path == "/a?b=c&d=1"

    def test_name_has_no_query_and_no_ids(self) -> None:
        """Names become labels of metrics, and there must not be one per id."""
        path = "/v1/responses/resp_5e3fa63649c4202f55ebc6db1b6f07e1/input_items"
        request = make_raw_request("GET", path, params={"key": "secret"})
        assert request.name == "GET /v1/responses/{id}/input_items"
        assert make_raw_request("GET", "/v1/models").name == "GET /v1/models"

    def test_body_is_json_with_its_content_type(self) -> None:
        request = make_raw_request("POST", "/a", json={"b": 1}, headers={"X-A": "b"})
        assert request.body == b'{"b":1}'
        assert request.headers == {"Content-Type": "application/json", "X-A": "b"}
        assert make_raw_request("POST", "/a").body is None


class TestTexts:
    def test_one_or_several_texts(self) -> None:
        assert validate_texts("a") == ("a",)
        assert validate_texts(text for text in ("a", "b")) == ("a", "b")

    @given(st.lists(st.text(), min_size=1))
    def test_valid_texts_are_sent_unchanged(self, texts: list[str]) -> None:
        refused = [text for text in texts if not text.strip() or "\0" in text]
        if not refused:
            assert validate_texts(texts) == tuple(texts)
            return
        with pytest.raises(InvalidRequest) as caught:
            validate_texts(texts)
        assert caught.value.field == f"texts[{texts.index(refused[0])}]"


class TestLanguages:
    @pytest.mark.parametrize("language", ["de", "DE", "en-US", "haw", "auto", "zh-CN"])
    def test_known_languages_are_accepted(self, language: str) -> None:
        assert make_transcription_options(language, None, None) == {"language": language.lower()}

    @pytest.mark.parametrize("language", ["xx", "german", "", "d"])
    def test_unknown_languages_are_rejected(self, language: str) -> None:
        with pytest.raises(InvalidRequest, match="language"):
            make_transcription_options(language, None, None)

    @pytest.mark.parametrize(
        ("speech", "language", "sent"),
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
    def test_engine_gets_a_code_that_it_knows(
        self, speech: Speech, language: str | None, sent: str
    ) -> None:
        code = None if language is None else validate_language(language)
        assert select_language(speech, code, "m:1") == sent

    @pytest.mark.parametrize(
        ("speech", "language", "message"),
        [
            ("whisper", None, "cannot have m:1 detect it"),
            ("whisper", "auto", "cannot have m:1 detect it"),
            ("english", "de", "'de', which m:1 does not know"),
            ("nemotron", "haw", "'haw', which m:1 does not know"),
        ],
    )
    def test_language_that_the_model_does_not_know_is_rejected(
        self, speech: Speech, language: str | None, message: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=message) as caught:
            select_language(speech, language, "m:1")
        assert caught.value.field == "language"


class TestImages:
    def item(self, place: str) -> dict[str, Any]:
        (item,) = make_input_items(
            [{"role": "user", "content": [{"type": "input_image", "image_url": place}]}]
        )
        assert isinstance(item, dict)
        part: dict[str, Any] = item["content"][0]
        return part

    def test_file_is_sent_in_the_request(self, tmp_path: Path) -> None:
        """So the service may run on another machine."""
        (tmp_path / "dot").write_bytes(DOT)
        item = self.item(str(tmp_path / "dot"))
        assert (item["image_url"], item["media_type"]) == (DATA_URL, "image/png")

    def test_data_url_stays_a_data_url(self) -> None:
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
    def test_content_decides_the_type_and_not_the_name(
        self, tmp_path: Path, content: bytes, kind: str
    ) -> None:
        (tmp_path / "image.png").write_bytes(content)
        assert self.item(str(tmp_path / "image.png"))["media_type"] == kind

    def test_too_large_image_is_rejected(self, tmp_path: Path) -> None:
        (tmp_path / "large.png").write_bytes(DOT + bytes(MAX_IMAGE_BYTES))
        with pytest.raises(InvalidRequest, match="can be sent"):
            self.item(str(tmp_path / "large.png"))

    def test_images_are_detected_in_the_input(self) -> None:
        assert not has_images("text")
        assert not has_images([{"type": "function_call_output", "output": "x"}])
        assert not has_images([{"content": "x"}, {"content": [{"type": "input_text"}]}])
        assert has_images([{"content": [{"type": "input_text"}, {"type": "input_image"}]}])


class TestResponses:
    def test_messages_have_their_type(self) -> None:
        (item,) = make_input_items([{"role": "user", "content": [{"type": "text", "text": "x"}]}])
        assert item == {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "x"}],
        }

    def test_tools_of_chat_completions_are_converted(self) -> None:
        function = {"name": "f", "parameters": {"type": "object"}}
        operation = build_operation("x", {"tools": [{"type": "function", "function": function}]})
        assert operation.members["tools"] == [{"type": "function", **function}]

    @given(st.text())
    def test_id_cannot_change_the_path(self, text: str) -> None:
        try:
            assert "/" not in validate_response_id("id", text)
        except InvalidRequest:
            return
        assert text not in {".", ".."}

    def test_schema_is_rejected_by_generations_that_ignore_it(self) -> None:
        text_format = {"format": {"type": "json_schema", "name": "n", "schema": {}}}
        operation = build_operation("x", {"text": text_format})
        operation.check(CAPABILITIES["sdk-2.1"])
        for generation in ("sdk-2.0", "sdk-1"):
            with pytest.raises(UnsupportedFeature, match="json_schema"):
                operation.check(CAPABILITIES[generation])
        build_operation("x", {"text": {"format": {"type": "text"}}}).check(CAPABILITIES["sdk-1"])

    def test_seed_has_the_limit_of_the_generation(self) -> None:
        operation = build_operation("x", {"seed": 2**40})
        operation.check(CAPABILITIES["sdk-2.1"])
        with pytest.raises(InvalidRequest, match="seed"):
            operation.check(CAPABILITIES["sdk-1"])

    def test_max_output_tokens_is_capped_if_the_default_overflows(self) -> None:
        overflow = ContextOverflow("x", prompt_tokens=90, max_tokens=2048, context_length=100)
        amended = build_operation("x", {}).amend(overflow)
        assert isinstance(amended, ResponseOperation)
        assert amended.members["max_output_tokens"] == 10
        assert build_operation("x", {"max_output_tokens": 20}).amend(overflow) is None
        full = ContextOverflow("x", prompt_tokens=100, max_tokens=2048, context_length=100)
        assert build_operation("x", {}).amend(full) is None
        assert (full.field, full.max_tokens) == ("prompt", None)
        assert "no room for an answer in the model's context of 100" in full.message
