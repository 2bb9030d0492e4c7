"""Resolving model names, requests for the catalog, and cached state of a connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.connection import Connection, match_model
from foundry_api.engine.endpoint import Endpoint
from foundry_api.types import errors
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.messages import ServiceGeneration


def local(model_id: str, alias: str) -> Model:
    return Model(id=model_id, alias=alias, catalog="local", cached=True)


def public(model_id: str, alias: str, *, cached: bool | None = None) -> Model:
    return Model(id=model_id, alias=alias, catalog="public", cached=cached)


DEMO = local("demo:1", "demo")
MINE = local("mine:2", "mine")
PHI_GPU = public("Phi-4-mini-instruct-cuda-gpu:3", "phi-4-mini", cached=False)
PHI_CPU = public("Phi-4-mini-instruct-generic-cpu:4", "phi-4-mini", cached=True)
PHI_CPU_OLD = public("Phi-4-mini-instruct-generic-cpu:3", "phi-4-mini", cached=True)
QWEN = public("Qwen-generic-cpu:1", "qwen", cached=False)
EVERYTHING = (DEMO, MINE, PHI_GPU, PHI_CPU_OLD, PHI_CPU, QWEN)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("demo", DEMO),
        ("DEMO", DEMO),
        (" demo ", DEMO),
        ("demo:1", DEMO),
        ("Phi-4-mini-instruct-generic-cpu:3", PHI_CPU_OLD),
        ("phi-4-mini-instruct-GENERIC-cpu:4", PHI_CPU),
        ("Phi-4-mini-instruct-generic-cpu", PHI_CPU),
        ("phi-4-mini", PHI_CPU_OLD),
        ("qwen", QWEN),
        ("demo:2", None),
        ("phi-4", None),
        ("", None),
    ],
)
def test_name_may_be_an_id_an_id_without_version_or_an_alias(
    name: str, meant: Model | None
) -> None:
    assert match_model(name, EVERYTHING) == meant


def test_highest_version_is_selected() -> None:
    versions = [local(f"m:{version}", "other") for version in (9, 10, 2)]
    assert match_model("m", versions) == versions[1]


def test_first_cached_variant_is_selected_or_else_the_first() -> None:
    gpu, cpu = public("m-gpu:1", "m"), public("m-cpu:1", "m", cached=True)
    assert match_model("m", [gpu, cpu]) == cpu
    assert match_model("m", [gpu, msgspec.structs.replace(cpu, cached=False)]) == gpu


def test_id_takes_precedence_over_an_alias() -> None:
    named, aliased = local("phi", "other"), local("other:1", "phi")
    assert match_model("phi", [aliased, named]) == named


def test_id_without_a_number_has_no_version() -> None:
    odd = local("model:latest", "m")
    assert match_model("model:latest", [odd]) == odd
    assert match_model("model", [odd]) is None


@given(name=st.text(), ids=st.lists(st.text()))
def test_any_text_is_accepted_as_a_name(name: str, ids: list[str]) -> None:
    models = [local(model_id, model_id) for model_id in ids]
    found = match_model(name, models)
    assert found is None or found in models


# --- a service that records its requests ------------------------------------------------------


@dataclass
class Service:
    """A dialect without a transport."""

    here: Sequence[Model] = ()
    catalog: Sequence[Model] | None = None
    service_generation: ServiceGeneration = "sdk-2.1"
    capabilities: Capabilities = CAPABILITIES["sdk-2.1"]
    manages_calls: bool = False
    requests: list[str] = field(default_factory=list)
    failures: list[errors.FoundryError] = field(default_factory=list)

    async def list_local_models(self) -> Sequence[Model]:
        self._ask("local")
        return self.here

    async def list_public_models(self) -> Sequence[Model]:
        self._ask("public")
        if self.catalog is None:
            raise errors.CatalogUnavailable("the model catalog could not be reached")
        return self.catalog

    async def find_by_alias(self, name: str) -> Model | None:
        self._ask(f"alias {name}")
        return None

    async def load(self, model: Model) -> None:
        self._ask(f"load {model.id}")
        await asyncio.sleep(0)

    async def unload(self, model: Model) -> None:
        self._ask(f"unload {model.id}")

    def _ask(self, what: str) -> None:
        self.requests.append(what)
        if self.failures:
            raise self.failures.pop()


class Unused:
    """A transport that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


ENDPOINT = Endpoint(base_url="http://127.0.0.1:1", service_generation="sdk-2.1", origin="explicit")


def connected(service: Service) -> Connection:
    connection = Connection(ENDPOINT, Unused(), {}, None)
    connection.dialect = service  # type: ignore[assignment]
    return connection


async def test_local_model_needs_no_catalog() -> None:
    service = Service(here=[DEMO, MINE])
    assert await connected(service).resolve("mine") == MINE
    assert service.requests == ["local"]


async def test_known_name_is_not_requested_again() -> None:
    service = Service(here=[DEMO], catalog=[PHI_CPU])
    connection = connected(service)
    for name in ("demo", "DEMO:1", "phi-4-mini", "phi-4-mini", "demo"):
        await connection.resolve(name)
    assert service.requests == ["local", "local", "public"]


async def test_newly_registered_model_is_found() -> None:
    service = Service(here=[DEMO], catalog=[])
    connection = connected(service)
    await connection.resolve("demo")
    service.here = [DEMO, MINE]
    assert await connection.resolve("mine") == MINE


async def test_local_model_takes_precedence_over_the_catalog() -> None:
    ours = local("phi-4-mini:1", "phi-4-mini")
    service = Service(here=[ours], catalog=[PHI_CPU])
    assert await connected(service).resolve("phi-4-mini") == ours
    assert service.requests == ["local"]


async def test_error_for_an_unknown_name_suggests_similar_names() -> None:
    connection = connected(Service(here=[DEMO], catalog=[PHI_CPU]))
    with pytest.raises(errors.ModelNotFound, match="'phi-4-min'") as caught:
        await connection.resolve("phi-4-min")
    error = caught.value
    assert error.nearest[0] == "phi-4-mini"
    assert (error.model, error.service) == ("phi-4-min", ENDPOINT.base_url)
    assert "Did you mean phi-4-mini" in str(error)


async def test_offline_error_lists_the_local_models() -> None:
    connection = connected(Service(here=[DEMO, MINE]))
    with pytest.raises(errors.CatalogUnavailable) as caught:
        await connection.resolve("phi-4-mini")
    assert "on this machine: demo, mine; `--model demo` works now" in str(caught.value)
    assert caught.value.model == "phi-4-mini"


async def test_offline_error_without_local_models_says_so() -> None:
    with pytest.raises(errors.CatalogUnavailable, match="no model is on this machine yet"):
        await connected(Service()).resolve("phi-4-mini")


async def test_model_without_files_is_resolved_only_for_a_download() -> None:
    connection = connected(Service(here=[DEMO], catalog=[QWEN]))
    for _ in range(2):
        with pytest.raises(errors.ModelNotCached) as caught:
            await connection.resolve("qwen")
        assert "foundry-api models pull qwen" in str(caught.value)
    assert await connection.resolve("qwen", download=True) == QWEN
    with pytest.raises(errors.ModelNotCached):
        await connection.resolve("qwen")


async def test_download_by_another_program_is_noticed() -> None:
    service = Service(here=[], catalog=[QWEN])
    connection = connected(service)
    with pytest.raises(errors.ModelNotCached):
        await connection.resolve("qwen")
    service.catalog = [msgspec.structs.replace(QWEN, cached=True)]
    assert (await connection.resolve("qwen")).cached


async def test_model_is_loaded_once() -> None:
    service = Service()
    connection = connected(service)
    await asyncio.gather(*(connection.ensure_loaded(DEMO) for _ in range(50)))
    await connection.ensure_loaded(DEMO)
    await connection.ensure_loaded(MINE)
    assert service.requests == ["load demo:1", "load mine:2"]


async def test_failed_load_is_tried_again_by_the_next_call() -> None:
    service = Service(failures=[errors.ModelLoadFailed("no")])
    connection = connected(service)
    with pytest.raises(errors.ModelLoadFailed):
        await connection.ensure_loaded(DEMO)
    await connection.ensure_loaded(DEMO)
    assert service.requests == ["load demo:1"] * 2


async def test_model_is_loaded_again_after_unload_or_denial() -> None:
    service = Service()
    connection = connected(service)
    await connection.ensure_loaded(DEMO)
    await connection.models.unload(DEMO)
    await connection.ensure_loaded(DEMO)
    connection.forget(DEMO)
    await connection.ensure_loaded(DEMO)
    assert service.requests == ["load demo:1", "unload demo:1", "load demo:1", "load demo:1"]


async def test_forgotten_name_is_requested_again() -> None:
    service = Service(here=[DEMO])
    connection = connected(service)
    await connection.resolve("demo")
    connection.forget(DEMO)
    await connection.resolve("demo")
    assert service.requests == ["local", "local"]


def test_unknown_generation_is_rejected_with_a_hint() -> None:
    generation = cast("ServiceGeneration", "sdk-9")  # of a registration by a later version
    endpoint = Endpoint(base_url="http://127.0.0.1:1", service_generation=generation, origin="port")
    with pytest.raises(errors.UnsupportedFeature, match="sdk-9") as caught:
        Connection(endpoint, Unused(), {}, None)
    assert caught.value.service == endpoint.base_url
    assert "embedded" in caught.value.hint


def test_headers_are_not_in_the_repr() -> None:
    connection = Connection(ENDPOINT, Unused(), {"Authorization": "Bearer hunter2"}, None)
    assert connection.service_client.headers == {"Authorization": "Bearer hunter2"}
    assert "hunter2" not in repr(connection.service_client)
