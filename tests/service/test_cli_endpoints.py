"""`foundry-api embed`, `transcribe` and `request` with the real engine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.cli_program import run
from support.scripted_model import script
from support.scripted_model.audio import SILENCE, get_transcript, write_sounds, write_tone
from support.scripted_model.embeddings import embedding

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Endpoint

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def home(engine: Endpoint) -> Path:
    assert engine
    return Path(os.environ["FOUNDRY_TEST_HOME"])


class TestEmbed:
    def test_each_text_is_a_line(self, home: Path) -> None:
        done = run("embed", "--model", "embedder", "Hello", "you", home=home)
        assert (done.returncode, done.stderr) == (0, "")
        vectors = [json.loads(line) for line in done.stdout.splitlines()]
        assert vectors == [embedding("Hello"), embedding("you")]

    def test_lines_of_standard_input_are_texts(self, home: Path) -> None:
        done = run("embed", "-m", "embedder", home=home, stdin="Hello\n\nyou\n")
        assert len(done.stdout.splitlines()) == 2

    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [(["one"], ["one", "Hello", "you"]), (["one", "-", "two"], ["one", "Hello", "you", "two"])],
    )
    def test_lines_of_standard_input_follow_the_arguments(
        self, home: Path, arguments: list[str], texts: list[str]
    ) -> None:
        done = run("embed", "-m", "embedder", *arguments, home=home, stdin="Hello\n\nyou\n")
        vectors = [json.loads(line) for line in done.stdout.splitlines()]
        assert vectors == [embedding(text) for text in texts]

    def test_json_is_one_document(self, home: Path) -> None:
        done = run("embed", "--json", "-m", "embedder", "Hello", home=home)
        document = json.loads(done.stdout)
        assert (document["model"], document["dimensions"]) == ("embedder:1", 32)
        assert document["vectors"] == [embedding("Hello")]

    def test_a_chat_model_is_rejected_with_a_hint(self, home: Path) -> None:
        done = run("embed", "-m", "scripted", "Hello", home=home)
        assert (done.returncode, done.stdout) == (1, "")
        assert "makes no embeddings" in done.stderr
        assert "models list" in done.stderr

    def test_an_empty_input_is_a_usage_error(self, home: Path) -> None:
        done = run("embed", "-m", "embedder", home=home, stdin="\n")
        assert done.returncode == 2
        assert "texts is empty" in done.stderr


class TestTranscribe:
    def test_the_text_is_printed(self, home: Path, tmp_path: Path) -> None:
        tone = str(write_tone(tmp_path / "tone.wav"))
        done = run("transcribe", "-m", "transcriber", "--language", "de", tone, home=home)
        assert (done.returncode, done.stdout) == (0, get_transcript("de") + "\n")

    def test_as_json(self, home: Path, tmp_path: Path) -> None:
        tone = str(write_tone(tmp_path / "tone.wav"))
        arguments = ("--json", "-m", "transcriber", "--language", "en")
        done = run("transcribe", *arguments, tone, home=home)
        assert json.loads(done.stdout)["text"] == get_transcript()

    def test_a_long_recording_is_transcribed_to_its_end(self, home: Path, tmp_path: Path) -> None:
        talk = str(write_sounds(tmp_path / "talk.wav", (31, 0), (3, 0.5)))
        done = run("transcribe", "-m", "transcriber", "--language", "de", talk, home=home)
        assert (done.returncode, done.stdout) == (0, f"{SILENCE} {get_transcript('de')}\n")

    def test_the_language_is_required(self, home: Path, tmp_path: Path) -> None:
        tone = str(write_tone(tmp_path / "tone.wav"))
        done = run("transcribe", "-m", "transcriber", tone, home=home)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no language is given" in done.stderr

    def test_a_file_that_is_no_recording_is_rejected(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no sound", encoding="utf-8")
        notes = str(tmp_path / "notes.txt")
        done = run("transcribe", "-m", "transcriber", "--language", "en", notes, home=home)
        assert (done.returncode, done.stdout) == (2, "")
        assert "AudioDecoder" in done.stderr
        assert run("transcribe", "-m", "x", str(tmp_path / "nowhere"), home=home).returncode == 2


class TestRequest:
    def test_the_body_is_printed(self, home: Path) -> None:
        done = run("request", "GET", "/status", home=home)
        assert done.returncode == 0
        assert "endpoints" in json.loads(done.stdout)

    def test_json_has_status_and_headers(self, home: Path) -> None:
        done = run("request", "--json", "get", "/status", home=home)
        document = json.loads(done.stdout)
        assert document["status"] == 200
        assert document["headers"]["content-type"].startswith("application/json")
        assert "pid" in document["body"]

    def test_a_body_may_come_from_standard_input(self, home: Path) -> None:
        assert run("chat", "-m", "scripted", "Hi", home=home).returncode == 0  # it is loaded
        body = {
            "model": "scripted:1",
            "messages": [{"role": "user", "content": "say-hello"}],
        }
        path = "/catalogs/local/v1/chat/completions"
        done = run("request", "POST", path, "-d", "-", home=home, stdin=json.dumps(body))
        assert done.returncode == 0, done.stderr
        content = json.loads(done.stdout)["choices"][0]["message"]["content"]
        assert content == script("say-hello").text

    def test_a_query_and_headers_are_sent(self, home: Path) -> None:
        path = "/catalogs/local/v1/responses"
        done = run("request", "GET", path, "--param", "limit=1", "-H", "X-A: b", home=home)
        assert json.loads(done.stdout)["object"] == "list"

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("GET", "/nothing"), 1, "Check the method and the path"),
            (("GET", "nothing"), 2, "not a path on the service"),
            (("POST", "/x", "-d", "{"), 2, "the body is not JSON"),
            (("GET", "/x", "--param", "a"), 2, "NAME=VALUE"),
            (("GET", "/x", "-H", "a"), 2, "NAME:VALUE"),
        ],
    )
    def test_usage_errors(
        self, home: Path, arguments: tuple[str, ...], code: int, message: str
    ) -> None:
        done = run("request", *arguments, home=home)
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
