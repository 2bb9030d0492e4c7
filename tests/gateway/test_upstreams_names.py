"""Which names of a key open which models, if several upstreams list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from foundry_api.gateway.keys.types import ApiKey
from foundry_api.gateway.model_names import ModelNames, filter_models
from foundry_api.types.models import Model

if TYPE_CHECKING:
    from foundry_api.gateway.upstreams.upstreams import Upstreams


class FakeUpstreams:
    def __init__(self, *, are_named: bool) -> None:
        self.are_named = are_named


def make_names(*models: tuple[str, str], are_named: bool = True) -> ModelNames:
    """Make the names of models, each an id and an alias."""
    names = ModelNames(cast("Upstreams", FakeUpstreams(are_named=are_named)))
    names.update(make_models(*models))
    return names


def make_models(*models: tuple[str, str]) -> list[Model]:
    return [Model(id=name, alias=alias, catalog="local", cached=True) for name, alias in models]


def make_key(*models: str) -> ApiKey:
    return ApiKey(id="1", name="k", scopes=frozenset(), created_at=0.0, models=frozenset(models))


PHI = ("Phi-4-cpu:4", "phi-4")


@pytest.mark.parametrize("are_named", [True, False])
@pytest.mark.parametrize("name", ["phi-4", "PHI-4", "Phi-4-cpu:4", "phi-4-cpu"])
def test_an_alias_opens_its_ids(name: str, *, are_named: bool) -> None:
    names = make_names(PHI, ("other:1", "other"), are_named=are_named)
    assert names.is_allowed(make_key("phi-4"), name)
    assert not names.is_allowed(make_key("other"), name)


def test_an_id_opens_no_alias() -> None:
    names = make_names(PHI)
    assert names.is_allowed(make_key("phi-4-cpu"), "Phi-4-cpu:4")
    assert not names.is_allowed(make_key("phi-4-cpu:4"), "phi-4")


def test_before_the_models_are_known_a_version_is_one_of_the_only_service() -> None:
    assert make_names(are_named=False).is_allowed(make_key("phi"), "phi:4")
    assert not make_names().is_allowed(make_key("phi"), "phi:4")


def test_a_tag_is_no_version() -> None:
    """Ollama's `mistral:7` is another model than `mistral:latest`, which is `mistral`."""
    models = (("mistral:7", "mistral:7"), ("mistral:latest", "mistral"))
    names = make_names(*models)
    assert names.is_allowed(make_key("mistral"), "mistral:latest")
    assert not names.is_allowed(make_key("mistral"), "mistral:7")
    assert not names.is_allowed(make_key("mistral:7"), "mistral")
    listed = filter_models(make_models(*models), make_key("mistral"))
    assert [model.id for model in listed] == ["mistral:latest"]


@pytest.mark.parametrize(
    "listed",
    [
        ("Phi-4-cpu:4", "cheap"),  # the id of another upstream under another alias
        ("Phi-4-cpu", "cheap"),  # the same without its version
        ("phi-4", "cheap"),  # its alias as an id
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_an_upstream_opens_no_model_of_another(listed: tuple[str, str], *, is_first: bool) -> None:
    names = make_names(*((listed, PHI) if is_first else (PHI, listed)))
    for name in ("Phi-4-cpu:4", "Phi-4-cpu", "phi-4"):
        assert not names.is_allowed(make_key("cheap"), name), name
        assert names.is_allowed(make_key(name.lower()), name)


def test_a_corrected_alias_counts_from_the_next_listing_on() -> None:
    names = make_names(PHI, ("Phi-4-cpu:4", "cheap"))
    names.update(make_models(PHI))
    assert names.is_allowed(make_key("phi-4"), "Phi-4-cpu:4")
