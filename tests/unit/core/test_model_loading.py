"""Several models at once, and one in the place of another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.connection import Connection
from foundry_api.core.model_loading import check_drain, load_all, swap
from foundry_api.engine.endpoint import Endpoint
from foundry_api.types import errors
from foundry_api.types.capabilities import CAPABILITIES
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from foundry_api.wire.dialects.base import Catalog

ENDPOINT = Endpoint(base_url="http://127.0.0.1:1", service_generation="sdk-2.1", origin="embedded")
A, B, C = (Model(id=f"{name}:1", alias=name, catalog="local", cached=True) for name in "abc")


class Service:
    """A dialect without a wire, which loads what is not broken."""

    service_generation = "sdk-2.1"

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.capabilities = CAPABILITIES["sdk-2.1"]
        self.inside: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.connection = Connection(ENDPOINT, None, {}, None)  # type: ignore[arg-type]
        self.connection.dialect = self  # type: ignore[assignment]

    async def load(self, model: Model) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if model.alias in self.broken:
            raise errors.ModelLoadFailed(f"{model.alias} is broken")
        self.inside.add(model.alias)

    async def unload(self, model: Model) -> None:
        self.inside.discard(model.alias)

    async def get_loaded_ids(self, _catalog: Catalog | None = None) -> frozenset[str]:
        return frozenset(f"{name}:1" for name in self.inside)

    async def route(self, name: str) -> tuple[Connection, Model]:
        for model in (A, B, C):
            if model.alias == name:
                return self.connection, model
        raise errors.ModelNotFound(f"no model named {name}")


async def test_several_models_are_loaded_at_once_and_told_in_order() -> None:
    service = Service()
    assert await load_all(("c", "a", "b"), service.route) == [C, A, B]
    assert service.inside == {"a", "b", "c"}
    assert service.most_at_once == 3


async def test_where_that_is_not_known_to_be_safe_they_are_loaded_one_by_one() -> None:
    service = Service()
    service.capabilities = CAPABILITIES["legacy"]
    await load_all(("a", "b", "c"), service.route)
    assert (service.most_at_once, service.inside) == (1, {"a", "b", "c"})


@pytest.mark.parametrize("generation", ["legacy", "sdk-2.1"])
async def test_the_first_failure_is_raised_after_all_were_tried(
    generation: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("a", "c")
    service.capabilities = CAPABILITIES[generation]  # type: ignore[index]
    with pytest.raises(errors.ModelLoadFailed, match="a is broken"):
        await load_all(("a", "b", "c"), service.route)
    assert service.inside == {"b"}
    assert "c could not be loaded" in caplog.text
    with pytest.raises(errors.ModelNotFound):
        await load_all(("nobody", "c"), service.route)


async def test_no_models_are_loaded_at_once() -> None:
    assert await load_all((), Service().route) == []


async def test_one_model_takes_the_place_of_another() -> None:
    service = Service()
    await service.connection.ensure_loaded(A)
    assert await swap(await service.route("a"), await service.route("b"), drain_s=1) == B
    assert service.inside == {"b"}


async def test_when_the_new_one_fails_the_old_one_is_loaded_again() -> None:
    service = Service("b")
    await service.connection.ensure_loaded(A)
    with pytest.raises(errors.ModelLoadFailed, match="b is broken") as caught:
        await swap(await service.route("a"), await service.route("b"), drain_s=1)
    assert "a:1 is in memory again" in str(caught.value)
    assert service.inside == {"a"}


async def test_when_the_old_one_fails_too_the_error_says_so() -> None:
    service = Service("b")
    await service.connection.ensure_loaded(A)
    service.broken.add("a")
    with pytest.raises(errors.ModelLoadFailed, match="b is broken") as caught:
        await swap(await service.route("a"), await service.route("b"), drain_s=1)
    assert "a:1, which was in memory before, could not be loaded again" in str(caught.value)


async def test_an_old_one_that_was_not_in_memory_is_not_loaded_for_a_failure() -> None:
    service = Service("b")
    with pytest.raises(errors.ModelLoadFailed) as caught:
        await swap(await service.route("a"), await service.route("b"), drain_s=1)
    assert "again" not in str(caught.value)
    assert service.inside == set()


async def test_a_model_is_not_swapped_for_itself() -> None:
    service = Service()
    with pytest.raises(errors.InvalidRequest) as caught:
        await swap(await service.route("a"), await service.route("a"), drain_s=1)
    assert caught.value.field == "new"


async def test_an_old_one_in_use_stays_and_nothing_is_loaded() -> None:
    service = Service()
    await service.connection.ensure_loaded(A)
    service.connection.memory.begin_use("a:1")
    with pytest.raises(errors.ModelInUse):
        await swap(await service.route("a"), await service.route("b"), drain_s=0)
    assert service.inside == {"a"}


@pytest.mark.parametrize("drain_s", [-1, float("inf"), float("nan")])
def test_a_time_to_wait_that_is_none_is_refused(drain_s: float) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        check_drain(drain_s)
    assert caught.value.field == "drain"
