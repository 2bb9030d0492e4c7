"""The command line against a gateway with keys."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.gateway.keys.types import Limit, NewKey
from gateway.serving import ServedGateway, serve
from support.cli_program import run
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path
    from subprocess import CompletedProcess

    from foundry_api.engine.endpoint import Endpoint

    Runner = Callable[..., Awaitable[CompletedProcess[str]]]

HELLO = script("say-hello").text
MANAGE = frozenset({"inference", "manage"})
KEYS = (
    NewKey(name="caller"),
    NewKey(name="manager", scopes=MANAGE),
    NewKey(name="watcher", scopes=frozenset({"metrics"})),
    NewKey(name="poor", tokens=(Limit(1, "d"),)),
    NewKey(name="narrow", models=frozenset({"embedder"})),
)
NAMES = [key.name for key in KEYS]


@pytest.fixture
async def served(engine: Endpoint, tmp_path: Path) -> AsyncIterator[ServedGateway]:
    async with serve(tmp_path / "gateway", engine.base_url, *KEYS) as served:
        yield served


@pytest.fixture
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two prompts, which is not where the gateway must have none."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("say-hello\nsay-hello\n", encoding="utf-8")
    return file


@pytest.fixture
def cli(served: ServedGateway, own_home: Path) -> Runner:
    """Run a command against the gateway, with the key of a name."""

    async def call(
        *arguments: str, key: str | None = "caller", **options: Any
    ) -> CompletedProcess[str]:
        variables = {"FOUNDRY_BASE_URL": served.gateway.url, "FOUNDRY_MODEL": "scripted"}
        if key is not None:
            variables["FOUNDRY_API_KEY"] = served.tokens[NAMES.index(key)]
        return await asyncio.to_thread(run, *arguments, home=own_home, **options, **variables)

    return call


async def test_chat(cli: Runner) -> None:
    for arguments, stdin in ((("say-hello",), b""), ((), b"say-hello")):
        answered = await cli("chat", *arguments, stdin=stdin)
        assert (answered.returncode, answered.stdout) == (0, f"{HELLO}\n"), answered.stderr


@pytest.mark.parametrize("command", ["chat", "models", "embed", "health", "batch"])
async def test_without_a_key_every_command_says_what_to_set(
    cli: Runner, prompts: Path, command: str
) -> None:
    arguments = {
        "chat": ("say-hello",),
        "embed": ("-m", "embedder", "say-hello"),
        "batch": ("run", str(prompts), "-o", str(prompts.with_name("out.jsonl"))),
        "models": ("list",),
        "health": (),
    }[command]
    refused = await cli(command, *arguments, key=None)
    assert refused.returncode not in {0, 130}
    assert "FOUNDRY_API_KEY" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("key", "message"),
    [("poor", "quota"), ("narrow", "scripted"), ("watcher", "scope inference")],
)
async def test_a_refusal_is_reported_once_and_completely(
    cli: Runner, key: str, message: str
) -> None:
    if key == "poor":
        await cli("chat", "say-hello", "--max-tokens", "5", key=key)  # uses its quota up
    refused = await cli("chat", "say-hello", "--max-tokens", "5", key=key)
    assert refused.returncode in {1, 2}
    assert refused.stdout == ""
    assert refused.stderr.startswith("Error: ")
    assert message in refused.stderr


async def test_embed(cli: Runner) -> None:
    done = await cli("embed", "-m", "embedder", "Hello", "--json")
    assert done.returncode == 0, done.stderr
    assert "embed" in done.stdout


async def test_models(cli: Runner) -> None:
    listed = await cli("models", "list")
    assert listed.returncode == 0, listed.stderr
    assert {"scripted", "embedder"} <= set(listed.stdout.split())
    narrow = json.loads((await cli("models", "list", "--json", key="narrow")).stdout)
    assert [model["alias"] for model in narrow["models"]] == ["embedder"]
    for command, says in (("load", "is loaded"), ("unload", "is no longer loaded")):
        refused = await cli("models", command, "embedder")
        assert (refused.returncode, "scope manage" in refused.stderr) == (2, True)
        done = await cli("models", command, "embedder", key="manager")
        assert done.stdout.startswith(f"embedder {says}: "), done.stderr
    shown = await cli("models", "show", "embedder")
    assert (shown.returncode, "embedder" in shown.stdout) == (0, True)
    unknown = await cli("models", "load", "nowhere", key="manager")
    assert (unknown.returncode, "nowhere" in unknown.stderr) == (1, True)


async def test_status(cli: Runner, served: ServedGateway) -> None:
    shown = await cli("status")
    assert (shown.returncode, served.gateway.url in shown.stdout) == (0, True), shown.stderr
    assert "gateway" in shown.stdout
    closed = await cli("status", key=None)
    assert "FOUNDRY_API_KEY" in closed.stdout + closed.stderr


async def test_health(cli: Runner) -> None:
    await cli("chat", "say-hello")
    shown = await cli("health")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "healthy" in shown.stdout
    health = json.loads((await cli("health", "--json")).stdout)
    assert health["service_generation"] == "gateway"
    ready = await cli("health", "--until-ready", "30")
    assert ready.returncode == 0


async def test_doctor(cli: Runner, served: ServedGateway) -> None:
    report = json.loads((await cli("doctor", "--json")).stdout)
    findings = [finding for finding in report["findings"] if finding["level"] == "problem"]
    assert findings == []
    assert any(served.gateway.url in str(finding) for finding in report["findings"])
    closed = await cli("doctor", key=None)
    assert closed.returncode == 1
    assert "FOUNDRY_API_KEY" in closed.stdout


async def test_a_batch(cli: Runner, prompts: Path) -> None:
    output = prompts.with_name("answers.jsonl")
    done = await cli("batch", "run", str(prompts), "-o", str(output))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2
    assert all(HELLO in json.dumps(line) for line in lines)
