"""Which models one of several services is called for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.wire.dialects.model_ids import strip_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.types.models import Model
    from foundry_api.types.services import ServiceOptions

__all__ = ["ModelOffer"]


class ModelOffer:
    """The names of the models that a service is called for.

    Attributes:
        options: The options of the service.
        models: What it listed last, and its further names; empty before it listed any.
        is_listed: Whether it has listed its models.
    """

    def __init__(self, options: ServiceOptions) -> None:
        self.options = options
        self.models: tuple[Model, ...] = ()
        self.is_listed = False
        self.aliases = {alias.lower(): name for alias, name in options.aliases.items()}
        self._chosen = frozenset(name.lower() for name in options.models)
        self._named = self._chosen | self.aliases.keys()
        self._names: frozenset[str] = self._named

    def has(self, name: str) -> bool | None:
        """Whether the service is called for a model; None if it has not listed its models."""
        name = name.strip().lower()
        if name in self._names or strip_version(name) in self._names:
            return True
        return False if self.is_listed else None

    def update(self, models: Sequence[Model]) -> None:
        """Remember which models the service has."""
        offered = [model for model in models if model.cached is not False and self._covers(model)]
        self._names = self._named.union(*map(_list_names, offered))
        self.models = (*offered, *self._describe_aliases(models))
        self.is_listed = True

    def _covers(self, model: Model) -> bool:
        return not self._chosen or not self._chosen.isdisjoint(_list_names(model))

    def _describe_aliases(self, models: Sequence[Model]) -> Iterable[Model]:
        """Return the further names as models of their own, which have no other name."""
        for alias, target in self.options.aliases.items():
            for model in models:
                if model.cached is not False and target.lower() in _list_names(model):
                    yield msgspec.structs.replace(model, id=alias, alias=alias, path=None)
                    break


def _list_names(model: Model) -> set[str]:
    names = (model.id, strip_version(model.id), model.alias)
    return {name.lower() for name in names if name}
