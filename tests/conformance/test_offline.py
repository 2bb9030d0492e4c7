"""An unreachable catalog is reported as such, and loaded models keep working."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from conformance.services import VERSIONS, prepare, run_suite_catalog
from engines import run_engine
from foundry_api import CatalogUnavailable, FoundryAPIClient
from service.fakes import free_port
from support.loopback_catalog import ALIAS
from support.scripted_model import script

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.types.messages import ServiceGeneration

HELLO = script("say-hello").text


@pytest.mark.parametrize("generation", ["sdk-1", "sdk-2.1"])
async def test_no_model_is_known_without_the_catalog(
    generation: ServiceGeneration, tmp_path: Path
) -> None:
    """Not even cached models are known."""
    prepare(tmp_path / "home", generation)
    nowhere = f"http://127.0.0.1:{free_port()}"
    with run_engine(VERSIONS[generation], tmp_path / "home", nowhere) as engine:
        async with FoundryAPIClient(engine.base_url, model=ALIAS, max_retries=0) as client:
            with pytest.raises(CatalogUnavailable, match="not known to the service") as caught:
                await client.complete("say-hello")
            assert caught.value.service == engine.base_url
            with pytest.raises(CatalogUnavailable):
                await client.models.list(catalog=True)
            assert await client.models.list() == []
            assert (await client.health_check()).status == "healthy"


async def test_sdk_2_0_lists_models_on_disk(tmp_path: Path) -> None:
    prepare(tmp_path / "home", "sdk-2.0")
    nowhere = f"http://127.0.0.1:{free_port()}"
    with run_engine(VERSIONS["sdk-2.0"], tmp_path / "home", nowhere) as engine:
        async with FoundryAPIClient(engine.base_url, model=ALIAS, max_retries=0) as client:
            assert (await client.complete("say-hello")).content == HELLO


@pytest.mark.parametrize("generation", VERSIONS)
async def test_loaded_model_answers_without_the_catalog(
    generation: ServiceGeneration, tmp_path: Path
) -> None:
    prepare(tmp_path / "home", generation)
    with contextlib.ExitStack() as stack:
        online = stack.enter_context(contextlib.ExitStack())
        catalog_url = online.enter_context(run_suite_catalog())
        home = tmp_path / "home"
        engine = stack.enter_context(run_engine(VERSIONS[generation], home, catalog_url))
        async with FoundryAPIClient(engine.base_url, model=ALIAS, max_retries=0) as client:
            await client.models.load(ALIAS)
        online.close()
        async with FoundryAPIClient(engine.base_url, model=ALIAS, max_retries=0) as client:
            assert (await client.complete("say-hello")).content == HELLO
