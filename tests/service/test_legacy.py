"""A client of the CLI service up to 0.9, which is a fake here."""

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
from support.fakes.fake_legacy import FakeLegacyService
from support.fakes.fake_sdk1_server import FakeModel
from support.loopback_catalog import VARIANT
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import Callable

MINI, BROKEN, FAR = f"{VARIANT}:1", "Broken-generic-cpu:1", "Far-away-generic-cpu:3"


def make_client(fake: FakeLegacyService) -> FoundryAPIClient:
    assert is_loopback(fake.base_url)
    return FoundryAPIClient(base_url=fake.base_url, model="scripted-mini", max_retries=0)


@pytest.mark.parametrize("pascal_case", [False, True])
async def test_a_model_is_loaded_by_the_first_call(pascal_case: bool) -> None:  # noqa: FBT001 - parametrized
    async with FakeLegacyService(pascal_case=pascal_case) as fake, make_client(fake) as client:
        answers = [await client.complete("say-hello") for _ in range(2)]
        streamed = [chunk async for chunk in client.stream_complete("say-multibyte")]
    assert {answer.content for answer in answers} == {"Hello, world!"}
    assert (answers[0].model, answers[0].service_generation) == (MINI, "legacy")
    assert "".join(chunk.content for chunk in streamed) == script("say-multibyte").text
    assert streamed[-1].finish_reason == "stop"
    assert [load.path for load in fake.get_requests("/openai/load/")] == [
        f"/openai/load/{MINI}?ttl=600"
    ]


async def test_max_tokens_default_limit_and_stop_string() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        truncated = await client.complete("say-hello", max_tokens=5)
        endless = await client.complete("say-forever")
        stopped = await client.complete("say-stop", stop=["STOP"])
    assert (truncated.content, truncated.finish_reason) == ("Hello", "length")
    assert (len(endless.content), endless.finish_reason) == (512, "length")
    assert (stopped.content, stopped.finish_reason) == ("one two ", "stop")


async def test_an_abandoned_stream_frees_the_engine() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        async for _ in client.stream_complete("say-slowly"):
            assert fake.generating == 1
            break
        await wait_until_async(lambda: not fake.generating)


@pytest.mark.parametrize("name", ["scripted-mini", MINI, MINI.upper(), VARIANT])
async def test_a_model_is_found_by_each_of_its_names(name: str) -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        assert (await client.complete("say-hello", model=name)).model == MINI


@pytest.mark.parametrize("wrapped_list", [False, True])
async def test_listed_models_have_their_catalog_data(wrapped_list: bool) -> None:  # noqa: FBT001 - parametrized
    fake = FakeLegacyService(wrapped_list=wrapped_list)
    async with fake, make_client(fake) as client:
        cached, *_ = await client.models.list()
        catalog = await client.models.list(catalog=True)
        await client.models.load("scripted-mini")
        (loaded,) = await client.models.loaded()
    assert (cached.id, cached.device, cached.task, cached.size_mb) == (
        MINI,
        "CPU",
        "chat-completion",
        29,
    )
    assert [(model.id, model.cached) for model in catalog] == [
        (MINI, True),
        (BROKEN, True),
        (FAR, False),
    ]
    assert loaded.id == MINI


async def test_unload_sends_a_request_only_for_a_loaded_model() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        await client.models.unload("scripted-mini")
        assert not fake.get_requests("/openai/unload/")
        await client.complete("say-hello")
        await client.models.unload("scripted-mini")
        assert not await client.models.loaded()
        await client.complete("say-hello")
    assert [request.path for request in fake.get_requests("/openai/unload/")] == [
        f"/openai/unload/{MINI}?force=true"
    ]
    assert fake.loads == 2


async def test_a_generic_gpu_variant_is_loaded_with_cuda_if_possible() -> None:
    models = (
        FakeModel("other-cuda-gpu:1", "other", "GPU", "CUDAExecutionProvider", cached=False),
        FakeModel("scripted-mini-generic-gpu:1", "scripted-mini", "GPU", "WebGpu"),
    )
    async with FakeLegacyService(models) as fake, make_client(fake) as client:
        await client.complete("say-hello")
    (load,) = fake.get_requests("/openai/load/")
    assert load.path.endswith("?ttl=600&ep=cuda")


async def test_a_user_model_outside_the_catalog_is_served() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        await client.models.list()
        fake.models.append(FakeModel("my model", "unused"))
        fake.catalog = "empty"
        assert (await client.complete("say-hello", model="My Model")).content == "Hello, world!"
    assert fake.get_requests("/openai/load/my%20model?")


# --- downloads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_fake",
    [
        lambda: FakeLegacyService(progress="docs"),
        lambda: FakeLegacyService(progress="sdk"),
    ],
    ids=["docs", "sdk"],
)
async def test_a_download_reports_progress(make_fake: Callable[[], FakeLegacyService]) -> None:
    percentages: list[float] = []
    async with make_fake() as fake, make_client(fake) as client:
        model = await client.models.download(
            "far-away", lambda step: percentages.append(step.percent)
        )
        second = await client.models.download(
            "far-away", lambda step: percentages.append(step.percent)
        )
    assert percentages == [0.0, 12.5, 50.0, 100.0]
    assert model == second
    assert (model.id, model.cached) == (FAR, True)


async def test_a_call_with_download_downloads_the_model() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        with pytest.raises(ModelNotCached) as caught:
            await client.complete("say-hello", model="far-away")
        answer = await client.complete("say-hello", model="far-away", download=True)
    assert caught.value.model == "far-away"
    assert answer.model == FAR


async def test_a_failed_download_has_the_services_message() -> None:
    fake = FakeLegacyService(failing_download="No space left on device")
    async with fake, make_client(fake) as client:
        with pytest.raises(DownloadFailed, match="No space left on device") as caught:
            await client.models.download("far-away")
    assert (caught.value.model, caught.value.service) == (FAR, fake.base_url)


async def test_a_download_without_a_listed_model_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Services reported success for models that they did not list afterwards: issue 232."""
    async with FakeLegacyService() as fake, make_client(fake) as client:
        monkeypatch.setattr(type(fake), "_get_cached_ids", lambda _: [])
        with pytest.raises(DownloadFailed, match="does not list the model") as caught:
            await client.models.download("far-away")
    assert f"foundry model download {FAR}" in caught.value.hint


async def test_cancelling_a_download_disconnects() -> None:
    fake = FakeLegacyService(stalled_download=True)
    async with fake, make_client(fake) as client:
        percentages: list[float] = []
        download = asyncio.ensure_future(
            client.models.download("far-away", lambda step: percentages.append(step.percent))
        )
        await wait_until_async(lambda: 12.5 in percentages)
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        await wait_until_async(lambda: fake.abandoned_downloads)


async def test_a_download_fails_when_the_service_stops() -> None:
    fake = FakeLegacyService(stalled_download=True)
    async with fake, make_client(fake) as client:
        percentages: list[float] = []
        download = asyncio.ensure_future(
            client.models.download("far-away", lambda step: percentages.append(step.percent))
        )
        await wait_until_async(lambda: 12.5 in percentages)
        await fake.stop()
        with pytest.raises(DownloadFailed, match="broke off"):
            await download


# --- errors --------------------------------------------------------------------------


async def test_an_unknown_model_suggests_the_nearest() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        with pytest.raises(ModelNotFound) as caught:
            await client.complete("Hi", model="scripted-mono")
    assert "scripted-mini" in caught.value.nearest


@pytest.mark.parametrize("catalog", ["empty", "failing"])
async def test_an_unavailable_catalog_is_its_own_error(catalog: str) -> None:
    fake = FakeLegacyService()
    async with fake, make_client(fake) as client:
        fake.catalog = catalog  # type: ignore[assignment] # from the parameters above
        assert (await client.complete("say-hello")).content == "Hello, world!"
        cached = [(model.id, model.alias) for model in await client.models.list()]
        assert cached == [(BROKEN, "broken"), (MINI, "scripted-mini")]
        with pytest.raises(CatalogUnavailable):
            await client.complete("Hi", model="far-away")
        with pytest.raises(CatalogUnavailable):
            await client.models.list(catalog=True)


async def test_deleted_model_files_are_a_typed_error() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        await client.complete("say-hello")
        fake.models[0].cached = False
        with pytest.raises(ModelNotCached, match="No OpenAIService provider found") as caught:
            await client.complete("say-hello")
    assert caught.value.status == 400
    assert "   at " not in str(caught.value)


async def test_a_failed_load_is_not_retried() -> None:
    async with FakeLegacyService() as fake:
        async with FoundryAPIClient(base_url=fake.base_url, model="broken") as client:
            with pytest.raises(ModelLoadFailed, match="Failed to load model") as caught:
                await client.complete("say-hello")
        assert (caught.value.model, caught.value.status) == (BROKEN, 500)
        assert len(fake.get_requests("/openai/load/")) == 1


async def test_a_schema_is_rejected_before_sending() -> None:
    response_format = {"type": "json_schema", "json_schema": {"type": "object"}}
    async with FakeLegacyService() as fake, make_client(fake) as client:
        with pytest.raises(UnsupportedFeature, match="response_format"):
            await client.complete("Hi", extra={"response_format": response_format})
        assert (await client.capabilities()).json_schema == "corrected"
    assert not fake.get_requests("/v1/chat")
    assert not fake.get_requests("/openai/load")


async def test_a_health_check_does_not_request_the_catalog() -> None:
    async with FakeLegacyService() as fake, make_client(fake) as client:
        await client.complete("say-hello")
        catalog_requests = len(fake.get_requests("/foundry/list"))
        health = await client.health_check()
    assert (health.status, health.service_generation, health.version) == (
        "healthy",
        "legacy",
        "0.3 to 0.9",
    )
    assert health.loaded_models == (MINI,)
    assert len(fake.get_requests("/foundry/list")) == catalog_requests
