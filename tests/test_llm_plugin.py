"""The plugin for `llm`, with the real `llm` and the real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Literal

import llm
import pytest
from pydantic import BaseModel

from conftest import HOME
from foundry_api import StructuredOutputError
from foundry_api.integrations import llm_plugin
from support.scripted_model import prompt_tokens, script

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

HELLO = script("say-hello").text


@pytest.fixture(autouse=True)
def user_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the keys and logs of `llm`."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    return tmp_path / "llm"


@pytest.fixture
def shared(engine: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the engine of the test run."""
    monkeypatch.setenv("FOUNDRY_HOME", os.environ[HOME])


@pytest.fixture
def model(shared: None) -> llm.Model:
    found = llm.get_model("foundry/scripted")
    assert isinstance(found, llm_plugin.FoundryModel)
    return found


def program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "llm", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def test_answer_has_text_usage_and_model(model: llm.Model) -> None:
    response = model.prompt("say-hello", system="Be brief.")

    assert response.text() == HELLO
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say-hello"}]
    assert response.usage().input == prompt_tokens(turns)
    assert response.usage().output == len(HELLO)
    assert response.resolved_model == "scripted:1"
    assert response.response_json == {"model": "scripted:1", "finish_reason": "stop"}


def test_answer_is_streamed(model: llm.Model) -> None:
    assert list(model.prompt("say-hello")) == list(HELLO)


def test_options_reach_the_engine(model: llm.Model) -> None:
    cut = model.prompt("say-hello", max_tokens=5, temperature=0.5, top_p=0.9, seed=7)
    assert cut.text() == HELLO[:5]
    assert cut.response_json == {"model": "scripted:1", "finish_reason": "length"}
    assert model.prompt("say-stop", stop="STOP").text() == "one two "
    with pytest.raises(ValueError, match="less than or equal to 2"):
        model.prompt("say-hello", temperature=3)


def test_conversation_has_its_history(model: llm.Model) -> None:
    conversation = model.conversation()
    conversation.prompt("say-hello").text()
    second = conversation.prompt("say-json")

    assert second.text() == script("say-json").text
    turns = [
        {"role": "user", "content": "say-hello"},
        {"role": "assistant", "content": HELLO},
        {"role": "user", "content": "say-json"},
    ]
    assert second.usage().input == prompt_tokens(turns)


def test_reasoning_is_not_part_of_the_text(model: llm.Model) -> None:
    response = model.prompt("say-think")

    assert response.text() == "42"
    reasoned = [event.chunk for event in response.stream_events() if event.type == "reasoning"]
    assert "".join(reasoned) == "Six times seven."


def test_answer_with_a_schema(model: llm.Model) -> None:
    class City(BaseModel):
        name: Literal["Rome", "Paris"]

    answer = model.prompt("say-json", schema=City)
    assert City.model_validate_json(answer.text())
    assert answer.usage().output

    with pytest.raises(StructuredOutputError):
        model.prompt("say-json", schema=City, max_tokens=2).text()


def calculate(expression: str) -> str:
    """Work out a sum."""
    return f"{expression} is 42, say-hello"


async def test_llm_calls_tools(model: llm.Model, shared: None) -> None:
    chain = model.chain("call-calculator", tools=[calculate], options={"max_tokens": 200})
    assert chain.text() == HELLO
    asking, _ = chain._responses
    (call,) = asking.tool_calls()
    assert (call.name, call.arguments) == ("calculate", {"expression": "6 * 7"})

    other = llm.get_async_model("foundry/scripted")
    assert isinstance(other, llm_plugin.AsyncFoundryModel)
    achain = other.chain("call-calculator", tools=[calculate], options={"max_tokens": 200})
    assert await achain.text() == HELLO
    await other._clients.loop_clients.aclose()


async def test_async_model(shared: None) -> None:
    model = llm.get_async_model("foundry/scripted")
    assert isinstance(model, llm_plugin.AsyncFoundryModel)
    pieces = [piece async for piece in model.prompt("say-hello")]
    response = await model.prompt("say-json")

    assert pieces == list(HELLO)
    assert await response.text() == script("say-json").text
    assert (await response.usage()).output == len(script("say-json").text)
    city = await model.prompt("say-json", schema={"enum": ["Rome"]})
    assert await city.text() == '"Rome"'
    await model._clients.loop_clients.aclose()


def test_model_names_are_read_from_files(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUNDRY_MODEL", "qwen3-0.6b")
    cache = own_home / "engine" / "cache" / "models"
    for file, text in {
        "foundry.local.modelinfo.json": {
            "models": [{"model_info": {"id": "mine:1", "alias": "mine"}, "model_path": "/x"}]
        },
        "Microsoft/Phi-4-mini-4/v4/inference_model.json": {"Name": "Phi-4-mini:4"},
    }.items():
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).write_text(json.dumps(text), encoding="utf-8")

    assert llm_plugin.list_model_names() == ["demo", "qwen3-0.6b", "mine", "Phi-4-mini"]
    assert not (own_home / "logs").exists(), "no engine was started"


@pytest.mark.parametrize("broken", ["settings", "registry"])
def test_broken_files_do_not_hide_other_models(
    broken: str, own_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if broken == "settings":
        monkeypatch.setenv("FOUNDRY_TIMEOUT", "soon")
    else:
        registry = own_home / "engine" / "cache" / "models" / "foundry.local.modelinfo.json"
        registry.parent.mkdir(parents=True)
        registry.write_text("[", encoding="utf-8")

    assert llm_plugin.list_model_names()[0] == "demo"
    assert "cannot all be listed" in caplog.text


def test_llm_command(own_home: Path) -> None:
    """On a machine without a running service: each command starts an engine and stops it."""
    first = program(
        "-m", "foundry/demo", "What is the capital of France?", "-o", "temperature", "0"
    )
    assert (first.returncode, first.stderr) == (0, "")
    assert "Paris" in first.stdout

    schema = '{"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}'
    second = program("-c", "And of Italy?", "--schema", schema)
    assert (second.returncode, second.stderr) == (0, "")
    assert json.loads(second.stdout) == {"city": "Rome"}

    logged: list[dict[str, Any]] = json.loads(program("logs", "--json", "-n", "0").stdout)
    assert [entry["model"] for entry in logged] == ["foundry/demo"] * 2
    assert logged[1]["output_tokens"] > 0
    assert logged[1]["input_tokens"] > logged[0]["input_tokens"]


def test_llm_command_reports_errors(own_home: Path) -> None:
    failed = program(
        "-m",
        "foundry/phi-4-mini",
        "Hello",
        FOUNDRY_BASE_URL="http://127.0.0.1:1",
        FOUNDRY_RETRIES="0",
    )

    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: nothing accepts connections at http://127.0.0.1:1")
    assert "Traceback" not in failed.stderr
