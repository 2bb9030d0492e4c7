"""A client of the command line's service up to 0.9, which a double stands in for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api import (
    CatalogUnavailable,
    DownloadFailed,
    FoundryAPIClient,
    ModelLoadFailed,
    ModelNotCached,
    ModelNotFound,
    UnsupportedFeature,
)
from foundry_api.wire.transport import is_loopback
from service.helpers import wait_until_async
from support.fakes.fake_legacy import LegacyServiceDouble
from support.fakes.fake_sdk1_server import DoubledModel
from support.loopback_catalog import VARIANT
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import Callable

MINI, BROKEN, FAR = f"{VARIANT}:1", "Broken-generic-cpu:1", "Far-away-generic-cpu:3"


def client_of(double: LegacyServiceDouble) -> FoundryAPIClient:
    assert is_loopback(double.base_url)
    return FoundryAPIClient(base_url=double.base_url, model="scripted-mini", max_retries=0)


@pytest.mark.parametrize("pascal_case", [False, True])
async def test_a_model_is_loaded_on_first_use_and_answers(pascal_case: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async with LegacyServiceDouble(pascal_case=pascal_case) as double, client_of(double) as client:
        answers = [await client.complete("say-hello") for _ in range(2)]
        streamed = [chunk async for chunk in client.stream_complete("say-multibyte")]
    assert {answer.content for answer in answers} == {"Hello, world!"}
    assert (answers[0].model, answers[0].service_generation) == (MINI, "legacy")
    assert "".join(chunk.content for chunk in streamed) == script("say-multibyte").text
    assert streamed[-1].finish_reason == "stop"
    assert [load.path for load in double.asked("/openai/load/")] == [f"/openai/load/{MINI}?ttl=600"]


async def test_an_answer_ends_at_its_bound_at_the_services_own_and_at_a_stop_string() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        cut = await client.complete("say-hello", max_tokens=5)
        endless = await client.complete("say-forever")
        stopped = await client.complete("say-stop", stop=["STOP"])
    assert (cut.content, cut.finish_reason) == ("Hello", "length")
    assert (len(endless.content), endless.finish_reason) == (512, "length")
    assert (stopped.content, stopped.finish_reason) == ("one two ", "stop")


async def test_leaving_a_stream_frees_the_engine() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        async for _ in client.stream_complete("say-slowly"):
            assert double.generating == 1
            break
        await wait_until_async(lambda: not double.generating)


@pytest.mark.parametrize("name", ["scripted-mini", MINI, MINI.upper(), VARIANT])
async def test_a_model_is_known_by_all_its_names(name: str) -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        assert (await client.complete("say-hello", model=name)).model == MINI


@pytest.mark.parametrize("wrapped_list", [False, True])
async def test_models_are_listed_with_what_the_catalog_tells(wrapped_list: bool) -> None:  # noqa: FBT001 - a parameter of the test
    double = LegacyServiceDouble(wrapped_list=wrapped_list)
    async with double, client_of(double) as client:
        here, *_ = await client.models.list()
        every = await client.models.list(catalog=True)
        await client.models.load("scripted-mini")
        (loaded,) = await client.models.loaded()
    assert (here.id, here.device, here.task, here.size_mb) == (MINI, "CPU", "chat-completion", 29)
    assert [(model.id, model.cached) for model in every] == [
        (MINI, True),
        (BROKEN, True),
        (FAR, False),
    ]
    assert loaded.id == MINI


async def test_unloading_is_at_once_and_nothing_for_what_is_not_loaded() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        await client.models.unload("scripted-mini")
        assert not double.asked("/openai/unload/")
        await client.complete("say-hello")
        await client.models.unload("scripted-mini")
        assert not await client.models.loaded()
        await client.complete("say-hello")
    assert [each.path for each in double.asked("/openai/unload/")] == [
        f"/openai/unload/{MINI}?force=true"
    ]
    assert double.loads == 2


async def test_a_generic_gpu_variant_is_loaded_with_cuda_where_there_is_cuda() -> None:
    models = (
        DoubledModel("other-cuda-gpu:1", "other", "GPU", "CUDAExecutionProvider", cached=False),
        DoubledModel("scripted-mini-generic-gpu:1", "scripted-mini", "GPU", "WebGpu"),
    )
    async with LegacyServiceDouble(models) as double, client_of(double) as client:
        await client.complete("say-hello")
    (load,) = double.asked("/openai/load/")
    assert load.path.endswith("?ttl=600&ep=cuda")


async def test_a_model_of_the_users_own_is_served_though_no_catalog_has_it() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        await client.models.list()
        double.models.append(DoubledModel("my model", "unused"))
        double.catalog = "empty"
        assert (await client.complete("say-hello", model="My Model")).content == "Hello, world!"
    assert double.asked("/openai/load/my%20model?")


# --- downloads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: LegacyServiceDouble(progress="docs"),
        lambda: LegacyServiceDouble(progress="sdk"),
    ],
    ids=["docs", "sdk"],
)
async def test_a_download_tells_how_far_it_is(make: Callable[[], LegacyServiceDouble]) -> None:
    told: list[float] = []
    async with make() as double, client_of(double) as client:
        model = await client.models.download("far-away", lambda step: told.append(step.percent))
        again = await client.models.download("far-away", lambda step: told.append(step.percent))
    assert told == [0.0, 12.5, 50.0, 100.0]
    assert model == again
    assert (model.id, model.cached) == (FAR, True)


async def test_a_call_may_order_the_download() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        with pytest.raises(ModelNotCached) as caught:
            await client.complete("say-hello", model="far-away")
        answer = await client.complete("say-hello", model="far-away", download=True)
    assert caught.value.model == "far-away"
    assert answer.model == FAR


async def test_a_failed_download_has_the_services_message() -> None:
    double = LegacyServiceDouble(failing_download="No space left on device")
    async with double, client_of(double) as client:
        with pytest.raises(DownloadFailed, match="No space left on device") as caught:
            await client.models.download("far-away")
    assert (caught.value.model, caught.value.service) == (FAR, double.base_url)


async def test_a_download_is_believed_when_the_model_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service was seen to say that it had a model which it then did not know: issue 232."""
    async with LegacyServiceDouble() as double, client_of(double) as client:
        monkeypatch.setattr(type(double), "_cached", lambda _: [])
        with pytest.raises(DownloadFailed, match="does not list the model") as caught:
            await client.models.download("far-away")
    assert f"foundry model download {FAR}" in caught.value.hint


async def test_cancelling_a_download_leaves_it() -> None:
    double = LegacyServiceDouble(held_download=True)
    async with double, client_of(double) as client:
        told: list[float] = []
        download = asyncio.ensure_future(
            client.models.download("far-away", lambda step: told.append(step.percent))
        )
        await wait_until_async(lambda: 12.5 in told)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        await wait_until_async(lambda: double.downloads_left)


async def test_a_service_that_goes_away_breaks_a_download_off() -> None:
    double = LegacyServiceDouble(held_download=True)
    async with double, client_of(double) as client:
        told: list[float] = []
        download = asyncio.ensure_future(
            client.models.download("far-away", lambda step: told.append(step.percent))
        )
        await wait_until_async(lambda: 12.5 in told)
        await double.stop()
        with pytest.raises(DownloadFailed, match="broke off"):
            await download


# --- what goes wrong --------------------------------------------------------------------------


async def test_an_unknown_model_is_told_with_the_nearest() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        with pytest.raises(ModelNotFound) as caught:
            await client.complete("Hi", model="scripted-mono")
    assert "scripted-mini" in caught.value.nearest


@pytest.mark.parametrize("catalog", ["empty", "failing"])
async def test_a_catalog_out_of_reach_is_told_from_one_without_the_model(catalog: str) -> None:
    double = LegacyServiceDouble()
    async with double, client_of(double) as client:
        double.catalog = catalog  # type: ignore[assignment] # of the parameters above
        assert (await client.complete("say-hello")).content == "Hello, world!"
        here = [(model.id, model.alias) for model in await client.models.list()]
        assert here == [(BROKEN, "broken"), (MINI, "scripted-mini")]
        with pytest.raises(CatalogUnavailable):
            await client.complete("Hi", model="far-away")
        with pytest.raises(CatalogUnavailable):
            await client.models.list(catalog=True)


async def test_a_model_whose_files_vanished_is_a_typed_error() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        await client.complete("say-hello")
        double.models[0].cached = False
        with pytest.raises(ModelNotCached, match="No OpenAIService provider found") as caught:
            await client.complete("say-hello")
    assert caught.value.status == 400
    assert "   at " not in str(caught.value)


async def test_a_model_that_cannot_be_loaded_is_told_and_not_tried_again() -> None:
    async with LegacyServiceDouble() as double:
        async with FoundryAPIClient(base_url=double.base_url, model="broken") as client:
            with pytest.raises(ModelLoadFailed, match="Failed to load model") as caught:
                await client.complete("say-hello")
        assert (caught.value.model, caught.value.status) == (BROKEN, 500)
        assert len(double.asked("/openai/load/")) == 1


async def test_a_schema_is_refused_before_anything_is_sent() -> None:
    form = {"type": "json_schema", "json_schema": {"type": "object"}}
    async with LegacyServiceDouble() as double, client_of(double) as client:
        with pytest.raises(UnsupportedFeature, match="response_format"):
            await client.complete("Hi", extra={"response_format": form})
        assert (await client.capabilities()).json_schema == "corrected"
    assert not double.asked("/v1/chat")
    assert not double.asked("/openai/load")


async def test_its_health_is_looked_at_without_the_catalog() -> None:
    async with LegacyServiceDouble() as double, client_of(double) as client:
        await client.complete("say-hello")
        seen = len(double.asked("/foundry/list"))
        health = await client.health_check()
    assert (health.status, health.service_generation, health.version) == (
        "healthy",
        "legacy",
        "0.3 to 0.9",
    )
    assert health.loaded_models == (MINI,)
    assert len(double.asked("/foundry/list")) == seen
