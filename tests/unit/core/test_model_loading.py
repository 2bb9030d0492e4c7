"""Loading several models, and swapping one for another."""

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
    """A dialect without a transport, which fails to load the broken models."""

    service_generation = "sdk-2.1"
    manages_calls = False

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


async def test_several_models_are_loaded_in_parallel_and_returned_in_order() -> None:
    service = Service()
    assert await load_all(("c", "a", "b"), service.route) == [C, A, B]
    assert service.inside == {"a", "b", "c"}
    assert service.most_at_once == 3


async def test_models_are_loaded_one_by_one_if_parallel_is_not_safe() -> None:
    service = Service()
    service.capabilities = CAPABILITIES["legacy"]
    await load_all(("a", "b", "c"), service.route)
    assert (service.most_at_once, service.inside) == (1, {"a", "b", "c"})


@pytest.mark.parametrize("generation", ["legacy", "sdk-2.1"])
async def test_first_failure_is_raised_after_all_were_tried(
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


async def test_no_models_are_loaded() -> None:
    assert await load_all((), Service().route) == []


async def test_model_is_swapped_for_another() -> None:
    service = Service()
    await service.connection.ensure_loaded(A)
    assert await swap(await service.route("a"), await service.route("b"), drain_s=1) == B
    assert service.inside == {"b"}


async def test_old_model_is_loaded_again_if_the_new_one_fails() -> None:
    service = Service("b")
    await service.connection.ensure_loaded(A)
    with pytest.raises(errors.ModelLoadFailed, match="b is broken") as caught:
        await swap(await service.route("a"), await service.route("b"), drain_s=1)
    assert "a:1 is in memory again" in str(caught.value)
    assert service.inside == {"a"}


async def test_error_says_that_the_old_model_failed_too() -> None:
    service = Service("b")
    await service.connection.ensure_loaded(A)
    service.broken.add("a")
    with pytest.raises(errors.ModelLoadFailed, match="b is broken") as caught:
        await swap(await service.route("a"), await service.route("b"), drain_s=1)
    assert "a:1, which was in memory before, could not be loaded again" in str(caught.value)


async def test_old_model_that_was_not_loaded_is_not_loaded_after_a_failure() -> None:
    service = Service("b")
    with pytest.raises(errors.ModelLoadFailed) as caught:
        await swap(await service.route("a"), await service.route("b"), drain_s=1)
    assert "again" not in str(caught.value)
    assert service.inside == set()


async def test_model_is_not_swapped_for_itself() -> None:
    service = Service()
    with pytest.raises(errors.InvalidRequest) as caught:
        await swap(await service.route("a"), await service.route("a"), drain_s=1)
    assert caught.value.field == "new"


async def test_old_model_in_use_stays_and_nothing_is_loaded() -> None:
    service = Service()
    await service.connection.ensure_loaded(A)
    service.connection.models.begin_use("a:1")
    with pytest.raises(errors.ModelInUse):
        await swap(await service.route("a"), await service.route("b"), drain_s=0)
    assert service.inside == {"a"}


@pytest.mark.parametrize("drain_s", [-1, float("inf"), float("nan")])
def test_invalid_drain_time_is_rejected(drain_s: float) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        check_drain(drain_s)
    assert caught.value.field == "drain"
