"""`chat` without an engine: sources of the prompt, and downloads of models."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, cast

import click
import pytest
from click.testing import CliRunner

from foundry_api.cli import downloads
from foundry_api.cli.chat import read_prompt
from foundry_api.cli.chat_runner import to_json
from foundry_api.cli.options import GlobalOptions, common_options, pass_common
from foundry_api.core.downloads import DownloadProgress
from foundry_api.types.errors import CatalogUnavailable, InvalidRequest, ModelNotCached
from foundry_api.types.messages import AttemptRecord, Completion, Timings, Usage
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from foundry_api.cli.session import Session

MODEL = Model(id="Far-away-generic-cpu:3", alias="far-away", catalog="public", size_mb=2662)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stdin(monkeypatch: pytest.MonkeyPatch, stream: io.IOBase | None) -> None:
    monkeypatch.setattr("sys.stdin", stream)


@pytest.mark.parametrize(
    ("words", "text", "prompt"),
    [
        ((), "from a file\n", "from a file"),
        ((), "\N{ZERO WIDTH NO-BREAK SPACE}from Windows\r\n", "from Windows"),
        ((), "  indented\n\n", "  indented"),
        (("Sum", "this up:"), "a\nb\n", "Sum this up:\n\na\nb"),
        (("Sum this up:",), "\ufeffa\r\nb\r\n", "Sum this up:\n\na\nb"),
        (("Sum this up:",), "\n \n", "Sum this up:"),
        (("Sum this up:",), "", "Sum this up:"),
        (("",), "from a pipe\n", "from a pipe"),
        (("sum", "up:", "-"), "text\n", "sum up: text"),
    ],
)
def test_prompt_from_arguments_and_standard_input(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str, prompt: str
) -> None:
    stdin(monkeypatch, io.StringIO(text))
    assert read_prompt(words) == prompt


@pytest.mark.parametrize("stream", [None, Terminal("not read")])
def test_arguments_without_a_pipe_are_the_prompt(
    monkeypatch: pytest.MonkeyPatch, stream: io.IOBase | None
) -> None:
    stdin(monkeypatch, stream)
    assert read_prompt(("say", "this")) == "say this"


def test_a_terminal_without_arguments_starts_a_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin(monkeypatch, Terminal())
    assert read_prompt(()) is None


@pytest.mark.parametrize(
    "stream",
    [
        None,
        io.StringIO("\n"),
        io.StringIO("a\0b"),
        io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"),
    ],
)
def test_an_empty_prompt_is_rejected(
    monkeypatch: pytest.MonkeyPatch, stream: io.IOBase | None
) -> None:
    stdin(monkeypatch, stream)
    with pytest.raises(InvalidRequest) as refused:
        read_prompt(())
    assert refused.value.field == "prompt"


def test_an_answer_as_json() -> None:
    completion = Completion(
        content="Hello",
        parsed=None,
        model="m:1",
        service="http://127.0.0.1:1",
        service_generation="sdk-2.1",
        finish_reason="stop",
        usage=Usage(1, 2, 3),
        timings=Timings(0.1, 0.2, None),
        attempts=(AttemptRecord(0.1), AttemptRecord(0.1)),
    )
    assert to_json(completion) == {
        "content": "Hello",
        "reasoning": "",
        "model": "m:1",
        "finish_reason": "stop",
        "usage": Usage(1, 2, 3),
        "timings": Timings(0.1, 0.2, None),
        "attempts": 2,
        "refusal": "",
        "cached": False,
        "service": "http://127.0.0.1:1",
        "service_generation": "sdk-2.1",
    }


class FakeModels:
    """A service with one model, which must be downloaded."""

    def __init__(self, *, catalog_answers: bool = True) -> None:
        self.is_cached = False
        self.catalog_answers = catalog_answers
        self.progress: list[float] = []

    async def list(self, *, catalog: bool) -> list[Model]:
        assert catalog
        if not self.catalog_answers:
            raise CatalogUnavailable("offline")
        return [MODEL]

    async def download(
        self, name: str, progress: Callable[[DownloadProgress], None] | None = None
    ) -> Model:
        assert name == MODEL.alias
        for percent in (50.0, 100.0):
            if progress:
                progress(DownloadProgress(percent=percent))
        self.is_cached = True
        return MODEL

    async def answer(self) -> str:
        if not self.is_cached:
            raise ModelNotCached("far-away is not on this machine", model=MODEL.alias)
        return "answer"


class FakeSession:
    """The part of a session that downloads need."""

    def __init__(self, models: FakeModels) -> None:
        self.models = models
        self.client = self

    def run(self, coroutine: Coroutine[Any, Any, Any], description: str = "") -> Any:
        del description
        return asyncio.run(coroutine)


def attempt(models: FakeModels, *, yes: bool = False, ask: bool = True) -> str:
    session = cast("Session", FakeSession(models))
    return downloads.retry_after_download(session, models.answer, yes=yes, ask=ask)


def test_a_missing_model_is_not_downloaded_without_consent() -> None:
    with pytest.raises(ModelNotCached):
        attempt(models := FakeModels())
    assert not models.is_cached


def test_yes_downloads_and_retries(capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt(FakeModels(), yes=True) == "answer"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("reply", "expected"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_the_user_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reply: str,
    expected: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    models = FakeModels()
    stdin(monkeypatch, Terminal(reply))
    monkeypatch.setattr("sys.stderr", Terminal())
    if expected:
        assert attempt(models) == "answer"
    else:
        with pytest.raises(ModelNotCached):
            attempt(models)
    assert models.is_cached is expected
    import sys  # noqa: PLC0415 - the stream is replaced above

    assert "Download it now (2.6 GB)? [y/N]" in cast("Terminal", sys.stderr).getvalue()
    assert capsys.readouterr().out == ""


def test_the_size_is_left_out_if_the_catalog_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin(monkeypatch, Terminal("n\n"))
    monkeypatch.setattr("sys.stderr", errors := Terminal())
    with pytest.raises(ModelNotCached):
        attempt(FakeModels(catalog_answers=False))
    assert "Download it now? [y/N]" in errors.getvalue()


def test_the_user_is_not_asked_with_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, Terminal("y\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(ModelNotCached):
        attempt(FakeModels(), ask=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--base-url", "http://a:1", "-vv", "--json", "verb"],
        ["verb", "--base-url", "http://a:1", "-vv", "--json"],
        ["--base-url", "http://b:2", "-v", "verb", "--base-url", "http://a:1", "-vv", "--json"],
    ],
)
def test_common_options_before_and_after_the_verb(arguments: list[str]) -> None:
    received: list[GlobalOptions] = []

    @click.group()
    @common_options
    def group() -> None:
        pass

    @group.command()
    @common_options
    @pass_common
    def verb(common: GlobalOptions) -> None:
        received.append(common)

    finished = CliRunner().invoke(group, arguments)
    assert finished.exit_code == 0, finished.output
    assert received == [GlobalOptions(base_url="http://a:1", verbose=2, as_json=True)]
