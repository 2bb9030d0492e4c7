"""Models of the public catalog, with a simulated catalog on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient, ModelNotCached, ModelNotFound
from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from support.loopback_catalog import ALIAS, VARIANT, add_to_cache, make_entity, run_catalog
from support.scripted_model import build, script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(own_home: Path) -> Iterator[Path]:
    """A shared engine whose catalog has one model that is cached and one that is not."""
    paths = Paths.from_home(own_home).create()
    add_to_cache(paths.data / "cache" / "models", VARIANT)
    entities = [make_entity(ALIAS, VARIANT), make_entity("far-away", "Far-away-generic-cpu", 3)]
    with run_catalog(entities) as url:
        options = HostOptions(paths=paths, models=(), catalog_url=url)
        shared.start(paths, idle_timeout_s=60, options=options)
        try:
            yield own_home
        finally:
            shared.stop(paths)


async def test_a_public_model_works_by_each_of_its_names(home: Path) -> None:
    async with FoundryAPIClient(home=home, max_retries=0) as client:
        for name in (ALIAS, VARIANT.lower(), f"{VARIANT}:1"):
            response = await client.complete("say-hello", model=name)
            assert response.content == script("say-hello").text
            assert response.model == f"{VARIANT}:1"

        health = await client.health_check()
        assert health.loaded_models == (f"{VARIANT}:1",)

        assert [model.id for model in await client.models.loaded()] == [f"{VARIANT}:1"]
        await client.models.unload(ALIAS)
        assert await client.models.loaded() == []


async def test_a_service_without_control_api_serves_models_by_id(home: Path) -> None:
    """Without a control API the alias is unknown: the service's own routes do not report it."""
    running = shared.find_endpoint(Paths.from_home(home))
    assert running is not None
    async with FoundryAPIClient(running.base_url, max_retries=0) as client:
        response = await client.complete("say-hello", model=VARIANT)
        assert response.content == script("say-hello").text


async def test_a_model_that_is_not_cached_has_a_hint(home: Path) -> None:
    async with FoundryAPIClient(home=home, max_retries=0) as client:
        with pytest.raises(ModelNotCached, match="foundry-api models pull far-away"):
            await client.complete("say-hello", model="far-away")


async def test_a_registered_model_comes_before_the_catalogs_of_the_same_alias(
    home: Path, tmp_path: Path
) -> None:
    build(tmp_path / "mine")
    async with FoundryAPIClient(home=home, max_retries=0) as client:
        await client.models.register(tmp_path / "mine", ALIAS)
        response = await client.complete("say-hello", model=ALIAS)
        assert response.model == f"{ALIAS}:1"
        response = await client.complete("say-hello", model=f"{VARIANT}:1")
        assert response.model == f"{VARIANT}:1"


async def test_a_misspelt_name_suggests_the_nearest(home: Path) -> None:
    async with FoundryAPIClient(home=home, max_retries=0) as client:
        with pytest.raises(ModelNotFound) as caught:
            await client.complete("say-hello", model="scripted-minni")

    assert ALIAS in caught.value.nearest
