"""A client of the server of Foundry Local 0.10, with fakes of the server and of `foundry`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api import (
    ContextOverflow,
    DeadlineExceeded,
    DownloadFailed,
    FoundryAPIClient,
    ModelError,
    ModelLoadFailed,
    ModelNotCached,
    ModelNotFound,
    ModelNotLoaded,
    ProtocolError,
    UnsupportedFeature,
)
from foundry_api.engine import foundry_command
from foundry_api.engine.foundry_command import FoundryModels
from service.helpers import wait_until_async
from support.fakes.fake_cli010 import FakeCli010Service, install_fake_cli010
from support.fakes.fake_sdk1_server import FakeModel
from support.loopback_catalog import VARIANT
from support.scripted_model import completion_tokens, script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MINI, BROKEN, FAR = f"{VARIANT}:1", "Broken-generic-cpu:1", "Far-away-generic-cpu:3"

pytestmark = pytest.mark.usefixtures("bare_path")


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    children = psutil.Process().children(recursive=True)
    assert not [each for each in children if "install_fake_foundry" in " ".join(each.cmdline())]


def make_client(fake: FakeCli010Service) -> FoundryAPIClient:
    return FoundryAPIClient(base_url=fake.base_url, model="scripted-mini", max_retries=0)


def get_requested_models(fake: FakeCli010Service, verb: str) -> list[str]:
    """Return the models for which `foundry model VERB` was run."""
    return [command[2] for command in fake.commands if command[:2] == ["model", verb]]


@pytest.mark.parametrize("has_variants_option", [False, True])
@pytest.mark.parametrize("versioned", [False, True])
async def test_the_foundry_command_loads_a_model_on_first_use(
    bare_path: Path,
    versioned: bool,  # noqa: FBT001 - a parameter of the test
    has_variants_option: bool,  # noqa: FBT001 - as above
) -> None:
    fake = FakeCli010Service(versioned=versioned, has_variants_option=has_variants_option)
    async with fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        answers = [await client.complete("say-hello") for _ in range(2)]
        streamed = [chunk async for chunk in client.stream_complete("say-multibyte")]
    assert {answer.content for answer in answers} == {"Hello, world!"}
    assert (answers[0].model, answers[0].service_generation) == (MINI, "cli-0.10")
    assert answers[0].usage.completion_tokens == completion_tokens("Hello, world!")
    assert "".join(chunk.content for chunk in streamed) == script("say-multibyte").text
    assert get_requested_models(fake, "load") == [MINI]


async def test_finish_reasons_of_max_tokens_service_limit_and_stop() -> None:
    async with FakeCli010Service() as fake, make_client(fake) as client:
        fake.models[0].loaded = True
        bound = {"max_completion_tokens": 5}
        cut = [
            await client.complete("say-hello", max_tokens=5),
            await client.complete("say-hello", extra=bound),
        ]
        endless = await client.complete("say-forever")
        stopped = await client.complete("say-stop", stop=["STOP"])
    assert {(each.content, each.finish_reason) for each in cut} == {("Hello", "length")}
    assert (len(endless.content), endless.finish_reason) == (2048, "length")
    assert (stopped.content, stopped.finish_reason) == ("one two ", "stop")


async def test_closing_a_stream_stops_the_engine() -> None:
    async with FakeCli010Service() as fake, make_client(fake) as client:
        fake.models[0].loaded = True
        async for _ in client.stream_complete("say-slowly"):
            break
        await wait_until_async(lambda: not fake.generating)


async def test_a_load_command_that_keeps_running_is_not_awaited(bare_path: Path) -> None:
    fake = FakeCli010Service(lingering_load=True)
    async with fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        assert (await client.models.load("scripted-mini")).id == MINI
        await wait_until_async(lambda: not fake.running)
        assert fake.models[0].loaded


async def test_a_failed_load_has_the_last_line_of_the_command(bare_path: Path) -> None:
    async with FakeCli010Service(failing="Not enough memory") as fake:
        install_fake_cli010(bare_path, fake)
        async with make_client(fake) as client:
            with pytest.raises(ModelLoadFailed, match="Not enough memory") as caught:
                await client.complete("say-hello")
    assert f"foundry model load {MINI}" in caught.value.message


@pytest.mark.parametrize("model_routes", [False, True])
async def test_a_model_that_cannot_be_loaded(bare_path: Path, model_routes: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async with (
        FakeCli010Service(model_routes=model_routes) as fake,
        make_client(fake) as client,
    ):
        install_fake_cli010(bare_path, fake)
        with pytest.raises(ModelLoadFailed) as caught:
            await client.complete("say-hello", model="broken")
    assert caught.value.model == BROKEN


@pytest.mark.parametrize("mute_streams", [False, True])
async def test_a_prompt_that_is_too_long_with_and_without_stream_errors(mute_streams: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async with (
        FakeCli010Service(mute_streams=mute_streams) as fake,
        make_client(fake) as client,
    ):
        fake.models[0].loaded = True
        with pytest.raises(ContextOverflow) as caught:
            await client.complete("say-hello", max_tokens=9000)
    assert caught.value.context_length == 8192


async def test_a_load_times_out(bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foundry_command, "LOAD_TIMEOUT_S", 1.0)
    fake = FakeCli010Service(stalled_load=True)
    async with fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        with pytest.raises(ModelLoadFailed, match="not done after 1 s"):
            await client.models.load("scripted-mini")
        await wait_until_async(lambda: not fake.running)


async def test_the_deadline_of_a_call_stops_the_load_command(bare_path: Path) -> None:
    fake = FakeCli010Service(stalled_load=True)
    async with fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        with pytest.raises(DeadlineExceeded, match="loading the model"):
            await client.complete("say-hello", deadline=2)
        await wait_until_async(lambda: not fake.running)
    # On Windows, the shell and the program may take longer to start than the deadline.
    assert get_requested_models(fake, "load") in ([MINI], [] if os.name == "nt" else [MINI])


async def test_models_are_listed_loaded_and_unloaded(bare_path: Path) -> None:
    async with FakeCli010Service() as fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        models = await client.models.list(catalog=True)
        assert [(model.id, model.cached, model.device, model.size_mb) for model in models] == [
            (MINI, True, "CPU", 29),
            (BROKEN, True, "CPU", 29),
            (FAR, False, "CPU", 29),
        ]
        await client.models.load("scripted-mini")
        assert (await client.health_check()).loaded_models == (MINI,)
        await client.models.unload("scripted-mini")
        assert not await client.models.loaded()


async def test_the_foundry_command_downloads_a_model(bare_path: Path) -> None:
    percents: list[float] = []
    async with FakeCli010Service() as fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        with pytest.raises(ModelNotCached):
            await client.complete("say-hello", model="far-away")
        model = await client.models.download("far-away", lambda step: percents.append(step.percent))
    assert (model.id, model.cached) == (FAR, True)
    assert percents[-1] == 100.0
    assert percents == sorted(percents)


async def test_a_failed_download_has_the_last_line_of_the_command(bare_path: Path) -> None:
    async with FakeCli010Service(failing="No space left") as fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        with pytest.raises(DownloadFailed, match="No space left"):
            await client.models.download("far-away")


async def test_cancelling_a_download_stops_the_command(bare_path: Path) -> None:
    percents: list[float] = []
    async with FakeCli010Service(stalled_download=True) as fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        download = asyncio.ensure_future(
            client.models.download("far-away", lambda step: percents.append(step.percent))
        )
        await wait_until_async(lambda: 12.5 in percents)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        await wait_until_async(lambda: not fake.running)


@pytest.mark.parametrize("lists", ["cached", "loaded"])
async def test_without_the_command_loaded_models_work(lists: str) -> None:
    fake = FakeCli010Service(lists=lists)  # type: ignore[arg-type] # of the parameters above
    async with fake, make_client(fake) as client:
        fake.models[0].loaded = True
        assert (await client.complete("say-hello")).content == "Hello, world!"
        assert (await client.health_check()).loaded_models == (MINI,)


async def test_without_the_command_the_error_names_it() -> None:
    async with FakeCli010Service() as fake, make_client(fake) as client:
        with pytest.raises(UnsupportedFeature) as load:
            await client.complete("say-hello")
        with pytest.raises(UnsupportedFeature) as download:
            await client.models.download("far-away")
    assert f"Run `foundry model load {MINI}` on its machine" in str(load.value)
    assert "Run `foundry model download far-away` on its machine" in str(download.value)


async def test_a_command_of_another_service_is_not_used(bare_path: Path) -> None:
    async with (
        FakeCli010Service() as fake,
        FakeCli010Service() as other,
        make_client(fake) as client,
    ):
        install_fake_cli010(bare_path, other)
        with pytest.raises(UnsupportedFeature):
            await client.complete("say-hello")
        assert not get_requested_models(other, "load")
        assert not await FoundryModels("http://192.0.2.1:5273").is_available()


async def test_model_routes_are_used_if_the_service_has_them() -> None:
    fake = FakeCli010Service(model_routes=True, versioned=True)
    async with fake, make_client(fake) as client:
        assert (await client.complete("say-hello")).content == "Hello, world!"
        await client.models.unload("scripted-mini")
        assert not await client.models.loaded()
    assert not fake.commands


@pytest.mark.parametrize("mute_streams", [False, True])
async def test_an_unloaded_model_with_and_without_stream_errors(mute_streams: bool) -> None:  # noqa: FBT001 - a parameter of the test
    fake = FakeCli010Service(model_routes=True, mute_streams=mute_streams)
    async with fake, make_client(fake) as client:
        await client.complete("say-hello")
        fake.models[0].loaded = False
        with pytest.raises(ModelNotLoaded, match="is not loaded"):
            await client.complete("say-hello")
        assert (await client.complete("say-hello")).content == "Hello, world!"
    assert fake.loads == 2


async def test_an_unknown_model_suggests_a_similar_name(bare_path: Path) -> None:
    async with FakeCli010Service() as fake, make_client(fake) as client:
        install_fake_cli010(bare_path, fake)
        with pytest.raises(ModelNotFound) as caught:
            await client.complete("Hi", model="scripted-mono")
    assert "scripted-mini" in caught.value.nearest


@pytest.mark.parametrize("name", ["--help", "a & calc", "a b", 'a"b', "a%PATH%", ""])
async def test_a_model_name_cannot_be_an_option_or_a_command(bare_path: Path, name: str) -> None:
    """On Windows, `foundry` may be a batch file, whose arguments the shell parses again."""
    async with FakeCli010Service((FakeModel(name, "odd"),)) as fake:
        install_fake_cli010(bare_path, fake)
        with pytest.raises(ModelError, match="cannot be used on a command line"):
            await FoundryModels(fake.base_url).load(name)
    assert not get_requested_models(fake, "load")


async def test_a_command_without_a_list_is_a_protocol_error(bare_path: Path) -> None:
    async with FakeCli010Service(has_variants_option=False) as fake:
        install_fake_cli010(bare_path, fake)
        (bare_path / "foundry_program.py").write_text("print('oops {')", encoding="utf-8")
        models = FoundryModels(fake.base_url)
        with pytest.raises(ProtocolError, match="prints no list of models"):
            await models.get_loaded_ids()
        with pytest.raises(ProtocolError, match="prints no list of models"):
            await models.list_models()
