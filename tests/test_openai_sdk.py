"""The code and the limitations in docs/openai-sdk.md, with the `openai` SDK on the real engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from conftest import HOME
from foundry_api import FoundryClient
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.engine.endpoint import Endpoint

PAGE = Path(__file__).parents[1] / "docs" / "openai-sdk.md"


def get_code_blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", *command],
        env={**os.environ, "FOUNDRY_HOME": os.environ[HOME]},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def test_the_documented_program_runs(engine: Endpoint) -> None:
    capital, *story, city = run("-c", "\n".join(get_code_blocks("python"))).splitlines()

    assert "Paris" in capital
    assert re.fullmatch(r"\d+ tokens", story[-1])
    assert len(" ".join(story)) > 100
    assert city in {"Berlin", "Paris", "Rome"}


def test_the_documented_commands_run(engine: Endpoint) -> None:
    (console,) = get_code_blocks("console")
    commands = [line.removeprefix("foundry-api ").split() for line in console.splitlines()]
    assert commands[0] == ["up"]
    for command in commands[1:]:
        assert run("-m", "foundry_api", *command)


@pytest.fixture
def openai(engine: Endpoint) -> Iterator[OpenAI]:
    with FoundryClient(home=Path(os.environ[HOME])) as foundry:
        foundry.models.load("scripted")
        service = foundry.health_check().service
        with OpenAI(base_url=f"{service}/catalogs/local/v1", api_key="none", max_retries=0) as sdk:
            yield sdk


MESSAGES: Any = [{"role": "user", "content": "say-stop"}]


def test_a_model_is_found_by_its_id_and_not_by_its_alias(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError):
        openai.chat.completions.create(model="scripted", messages=MESSAGES)
    answer = openai.chat.completions.create(model="scripted:1", messages=MESSAGES, stop=["STOP"])
    assert answer.choices[0].message.content == "one two "


def test_the_sdks_form_of_a_schema_allows_any_json(openai: OpenAI) -> None:
    """The scripted model answers with JSON that is not a number."""
    messages: Any = [{"role": "user", "content": "say-json"}]
    schema = {"type": "number"}
    wrapped: Any = {"name": "answer", "schema": schema, "strict": True}

    def complete_with(json_schema: Any) -> str | None:
        completion = openai.chat.completions.create(
            model="scripted:1",
            messages=messages,
            response_format={"type": "json_schema", "json_schema": json_schema},
            max_tokens=100,
        )
        return completion.choices[0].message.content

    assert complete_with(wrapped) == script("say-json").text
    assert complete_with({**schema, **wrapped}) != script("say-json").text


def test_context_overflow_is_a_bad_request(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError):
        openai.chat.completions.create(model="scripted:1", messages=MESSAGES, max_tokens=9000)
