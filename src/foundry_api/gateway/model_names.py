"""The aliases of models, so that a key for an alias also opens the ids behind it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from foundry_api.gateway.errors import make_model_not_allowed
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
    """The names under which keys may have the models that were listed.

    A key for an alias opens the ids behind it, with and without their version. A call by an alias
    may reach any variant of the model, so a key for an id does not open it.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        # By id, with and without its version, and by alias; None where upstreams disagree.
        self._aliases: dict[str, str | None] = {}
        self._listed: set[str] = set()  # as they are written

    def is_listed(self, name: str) -> bool:
        """Whether a model was listed by a name, in the same upper and lower case."""
        return name in self._listed

    def get_alias(self, name: str) -> str | None:
        """Return the alias of an id, with or without its version; None if the id is unknown."""
        return self._aliases.get(name.casefold())

    def get_names(self, name: str) -> tuple[str, ...]:
        """Return all names by which a key may have the model with a name."""
        key, stripped = name.casefold(), strip_version(name)
        if key not in self._aliases:
            # Of other servers, `NAME:7` need not be a version of `NAME`.
            return (name,) if self._upstreams.are_named else (name, stripped)
        alias = self._aliases[key]
        if alias is None:  # by it, one upstream could open a model of another
            return (name,)
        if self._aliases.get(stripped.casefold()) == alias:
            return name, stripped, alias
        return name, alias

    def is_allowed(self, key: ApiKey, name: str) -> bool:
        """Whether a key may use the model with a name: an alias, or an id."""
        return key.allows_model(*self.get_names(name))

    def check(self, key: ApiKey | None, name: str) -> None:
        """Refuse a key that may not use the model with a name.

        Raises:
            RequestError: 403.
        """
        if key is not None and not self.is_allowed(key, name):
            raise make_model_not_allowed(name)

    def update(self, models: Iterable[Model]) -> None:
        """Remember the aliases of all models that were listed."""
        aliases: dict[str, str | None] = {}
        for model in models:
            names = _list_names(model)
            self._listed.update(names)
            for name in names:
                if aliases.setdefault(name.casefold(), model.alias) != model.alias:
                    aliases[name.casefold()] = None
        self._aliases |= aliases

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
    return [model for model in models if key.allows_model(*_list_names(model))]


def has_all(models: Iterable[Model], key: ApiKey | None) -> bool:
    """Whether these are all models that a key may use, so that the catalog has no others for it."""
    if key is None or key.models is None:
        return False
    names = {name.lower() for model in models for name in _list_names(model)}
    return key.models <= names


def _list_names(model: Model) -> tuple[str, ...]:
    """Return the names of a model; an id that is its own alias has no version."""
    if model.alias == model.id:
        return (model.id,)
    return model.alias, model.id, strip_version(model.id)
