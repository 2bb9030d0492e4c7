"""The aliases of models, so that a key for an alias also opens the ids behind it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from foundry_api.types.errors import FoundryError
from foundry_api.wire.dialects.model_ids import strip_version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.upstreams.upstreams import Upstreams
    from foundry_api.types.models import Model

__all__ = ["ModelNames", "filter_models", "has_all"]

log = logging.getLogger("foundry_api.gateway")


class ModelNames:
    """The aliases of the models that were listed, by id.

    A call by an alias may reach any variant of the model, so a key for an id does not open it.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._aliases: dict[str, str] = {}

    def get_alias(self, name: str) -> str | None:
        """Return the alias of an id, with or without its version; None if the id is unknown."""
        return self._aliases.get(name.casefold())

    def is_allowed(self, key: ApiKey, name: str) -> bool:
        """Whether a key may use the model with a name: an alias, or an id."""
        names = (name, strip_version(name), self.get_alias(name))
        return key.allows_model(*(one for one in names if one is not None))

    def update(self, models: Iterable[Model]) -> None:
        """Remember the aliases of models that were listed."""
        for model in models:
            for name in (model.id, strip_version(model.id)):
                self._aliases[name.casefold()] = model.alias

    async def load(self) -> None:
        """List the models unless that was done before; a failure leaves the aliases unknown."""
        if self._aliases:
            return
        try:
            self.update(await self._upstreams.list_models())
        except FoundryError as error:
            log.debug("the aliases of the models are not known: %s", error)


def filter_models(models: Iterable[Model], key: ApiKey | None) -> list[Model]:
    """Return the models that a key may use."""
    if key is None:
        return list(models)
    return [
        model
        for model in models
        if key.allows_model(model.alias, model.id, strip_version(model.id))
    ]


def has_all(models: Iterable[Model], key: ApiKey | None) -> bool:
    """Whether these are all models that a key may use, so that the catalog has no others for it."""
    if key is None or key.models is None:
        return False
    names = {
        name.lower()
        for model in models
        for name in (model.alias, model.id, strip_version(model.id))
    }
    return key.models <= names
