"""When the catalog is requested, when the stored copy is used, and what is stored."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from foundry_api.core.catalog import MAX_BYTES, Catalog, CatalogStore, StoredCatalog
from foundry_api.engine.control_messages import PublicListing
from foundry_api.engine.endpoint import Endpoint, Origin
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.errors import CatalogUnavailable
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from foundry_api.core.catalog import CatalogSource

QWEN = Model(id="Qwen-generic-cpu:2", alias="qwen", catalog="public", cached=False, size_mb=310)
PHI = Model(id="Phi-generic-cpu:4", alias="phi", catalog="public", cached=False)
MINE = Model(id="mine:1", alias="mine", catalog="local", cached=True)


@dataclass
class Service:
    """A service with a control API, which records its requests."""

    cache: Path
    url: str = "http://127.0.0.1:1"
    origin: Origin = "shared"
    public: PublicListing | None = None
    in_memory: frozenset[str] = frozenset()
    loaded: Sequence[str] = ()
    requests: list[str] = field(default_factory=list)
    catalog_url: str | None = None
    foreign: bool = False
    local: Sequence[Model] = ()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(base_url=self.url, service_generation="sdk-2.1", origin=self.origin)

    @property
    def dialect(self) -> Service:
        return self

    @property
    def control(self) -> Service | None:
        return None if self.foreign else self

    async def status(self) -> ServiceStatus:
        return ServiceStatus("sdk-2.1", 1, str(self.cache))

    async def get_host_info(self) -> Service:
        return self

    async def list_local_models(self) -> Sequence[Model]:
        return self.local

    async def get_memory(self) -> frozenset[str]:
        self.requests.append("loaded")
        return self.in_memory

    async def list_public_models(self) -> PublicListing | Sequence[Model]:
        self.requests.append("public")
        if self.public is None:
            raise CatalogUnavailable("the model catalog could not be reached")
        return self.public.models if self.foreign else self.public


class Dialect:
    """The service with the interface of a dialect."""

    capabilities = CAPABILITIES["sdk-2.1"]

    def __init__(self, service: Service) -> None:
        self.get_status, self.list_local_models = service.status, service.list_local_models
        self.list_public_models, self.get_loaded_ids = (
            service.list_public_models,
            service.get_memory,
        )


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Seen:
    """The part of a connection that a catalog needs."""

    service: Service

    def __post_init__(self) -> None:
        self.endpoint = self.service.endpoint
        self.dialect = Dialect(self.service)
        self.control = self.service.control
        self.loaded = self.service.loaded


def catalog_of(service: Service, home: Path | None, clock: Clock | None = None) -> Catalog:
    store = None if home is None else CatalogStore(home)
    return Catalog(cast("CatalogSource", Seen(service)), store, wall_clock=clock or Clock())


def downloaded(cache: Path, model: Model) -> None:
    directory = cache / "Microsoft" / model.id.replace(":", "-") / "v1"
    directory.mkdir(parents=True)
    content = msgspec.json.encode({"Name": model.id})
    (directory / "inference_model.json").write_bytes(content)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "cache").mkdir()
    return Service(tmp_path / "cache", public=PublicListing(models=(QWEN, PHI)))


async def test_recent_catalog_is_not_requested_again(service: Service, tmp_path: Path) -> None:
    clock = Clock()
    catalog = catalog_of(service, tmp_path, clock)
    first = await catalog.get_listing()
    clock.now += 599
    assert await catalog_of(service, tmp_path, clock).get_listing() == first
    assert service.requests.count("public") == 1
    clock.now += 2
    assert (await catalog.get_listing()).fetched_at == clock.now
    assert service.requests.count("public") == 2


async def test_refresh_requests_the_catalog(service: Service, tmp_path: Path) -> None:
    catalog = catalog_of(service, tmp_path)
    await catalog.get_listing()
    service.public = PublicListing(models=(PHI,))
    assert (await catalog.get_listing()).models == (QWEN, PHI)
    assert (await catalog.get_listing(max_age_s=0)).models == (PHI,)
    assert (await catalog.get_listing(refresh=True)).models == (PHI,)


async def test_nothing_is_recent_after_the_clock_was_set_back(
    service: Service, tmp_path: Path
) -> None:
    clock = Clock()
    await catalog_of(service, tmp_path, clock).get_listing()
    clock.now -= 3600
    await catalog_of(service, tmp_path, clock).get_listing()
    assert service.requests.count("public") == 2


async def test_stored_catalog_is_returned_if_it_cannot_be_reached(
    service: Service, tmp_path: Path
) -> None:
    clock = Clock()
    catalog = catalog_of(service, tmp_path, clock)
    good = await catalog.get_listing()
    service.public = None
    clock.now += 3 * 86_400
    old = await catalog.get_listing()
    assert (old.models, old.fetched_at, old.fresh) == (good.models, good.fetched_at, False)
    assert old.unreachable == "the model catalog could not be reached"


async def test_outdated_catalog_of_the_engine_is_not_stored_as_new(
    service: Service, tmp_path: Path
) -> None:
    service.public = PublicListing(models=(QWEN,), fetched_at=5.0, unreachable="no network")
    catalog = catalog_of(service, tmp_path)
    for _ in range(2):
        listing = await catalog.get_listing()
        assert (listing.fetched_at, listing.fresh, listing.unreachable) == (
            5.0,
            False,
            "no network",
        )
    assert service.requests.count("public") == 2


async def test_catalog_without_a_stored_copy_is_unavailable(
    service: Service, tmp_path: Path
) -> None:
    service.public = None
    with pytest.raises(CatalogUnavailable):
        await catalog_of(service, tmp_path).get_listing()


async def test_catalog_without_a_store_is_requested_every_time(service: Service) -> None:
    catalog = catalog_of(service, None)
    await catalog.get_listing()
    await catalog.get_listing()
    assert service.requests == ["public", "public"]


async def test_cached_and_loaded_are_current(service: Service, tmp_path: Path) -> None:
    catalog = catalog_of(service, tmp_path)
    await catalog.get_listing()
    downloaded(service.cache, QWEN)
    service.in_memory = frozenset({PHI.id})
    qwen, phi = (await catalog.get_listing()).models
    assert (qwen.cached, qwen.loaded) == (True, False)
    assert qwen.path == str(service.cache / "Microsoft" / "Qwen-generic-cpu-2" / "v1")
    assert (phi.cached, phi.loaded, phi.path) == (True, True, None)


async def test_embedded_engine_is_not_asked_for_loaded_models(
    service: Service, tmp_path: Path
) -> None:
    """It would query the catalog first."""
    service.origin, service.loaded = "embedded", (QWEN.id,)
    catalog = catalog_of(service, tmp_path)
    await catalog.get_listing()
    assert [model.loaded for model in (await catalog.get_listing()).models] == [True, False]
    assert service.requests == ["public"]


async def test_known_downloads_are_listed_without_a_request(
    service: Service, tmp_path: Path
) -> None:
    service.local = [MINE]
    catalog = catalog_of(service, tmp_path)
    assert await catalog.list_local_models() == [MINE]
    assert service.requests == []
    await catalog.get_listing()
    downloaded(service.cache, QWEN)
    assert [model.id for model in await catalog.list_local_models()] == [MINE.id, QWEN.id]
    assert service.requests.count("public") == 1


async def test_unknown_download_is_requested(service: Service, tmp_path: Path) -> None:
    downloaded(service.cache, QWEN)
    here = msgspec.structs.replace(QWEN, cached=True)
    service.public = PublicListing(models=(here, PHI))
    assert await catalog_of(service, tmp_path).list_local_models() == [here]
    service.public = None
    assert await catalog_of(service, tmp_path / "other").list_local_models() == []


async def test_other_service_reports_its_downloads_itself(service: Service, tmp_path: Path) -> None:
    service.foreign = True
    downloaded(service.cache, PHI)
    catalog = catalog_of(service, tmp_path)
    await catalog.get_listing()
    await catalog.get_listing()
    assert service.requests.count("public") == 2
    service.public = None
    service.local = [msgspec.structs.replace(QWEN, cached=True)]
    qwen, phi = (await catalog.get_listing()).models
    assert (qwen.cached, phi.cached) == (True, None)


@pytest.mark.parametrize("change", ["catalog_url", "cache"])
async def test_catalogs_of_different_sources_are_separate(
    service: Service, tmp_path: Path, change: str
) -> None:
    await catalog_of(service, tmp_path).get_listing()
    other = Service(service.cache, public=PublicListing(models=()))
    setattr(other, change, tmp_path if change == "cache" else "http://127.0.0.1:9")
    assert (await catalog_of(other, tmp_path).get_listing()).models == ()
    assert len(list((tmp_path / "state").iterdir())) == 2


def stored(**changes: object) -> StoredCatalog:
    catalog = StoredCatalog(source="x", fetched_at=1.0, asked_at=2.0, models=(QWEN,))
    return msgspec.structs.replace(catalog, **changes)


def test_too_large_catalog_is_not_stored(tmp_path: Path) -> None:
    store = CatalogStore(tmp_path)
    store.write(stored())
    huge = msgspec.structs.replace(QWEN, task="x" * MAX_BYTES)
    store.write(stored(models=(huge,)))
    assert store.read("x") == stored()


def test_unwritable_store_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file", encoding="utf-8")
    store = CatalogStore(tmp_path)
    store.write(stored())
    assert store.read("x") is None


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such files")
def test_pipe_in_place_of_the_store_does_not_block(tmp_path: Path) -> None:
    store = CatalogStore(tmp_path)
    store.write(stored())
    [file] = (tmp_path / "state").iterdir()
    file.unlink()
    os.mkfifo(file)
    assert store.read("x") is None


def test_file_of_another_source_is_ignored(tmp_path: Path) -> None:
    store = CatalogStore(tmp_path)
    store.write(stored())
    [file] = (tmp_path / "state").iterdir()
    file.write_bytes(msgspec.json.encode(stored(source="y")))
    assert store.read("x") is None
