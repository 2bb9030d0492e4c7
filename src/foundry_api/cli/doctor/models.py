"""Models: directories that are registered, the remote catalog, and the model that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.engine import DEMO
from foundry_api.cli.doctor.finding import Finding, Group, Kind
from foundry_api.cli.doctor.machine import in_thread
from foundry_api.core.connection import find_model
from foundry_api.engine.host.variants import DIGEST
from foundry_api.engine.models.directory import digest
from foundry_api.engine.models.registry_file import damage_of, registered, registry_file
from foundry_api.types.errors import CatalogUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from foundry_api.cli.doctor.machine import Machine
    from foundry_api.engine.models.registry_file import Registered
    from foundry_api.storage.paths import Paths
    from foundry_api.types.messages import Model

__all__ = ["GROUP", "wanted"]

REGISTERED = Kind("registered-models", "ok", "Registered model directories are as they were")
GONE = Kind(
    "registered-model-gone",
    "problem",
    "A registered model's directory is gone",
    "Put it back, or forget it: `foundry-api models rm {name}`.",
)
CHANGED = Kind(
    "registered-model-changed",
    "warning",
    "A registered model's files changed",
    "Register it again, so that its description is right: `foundry-api models add {path} --alias"
    " {alias}`.",
)
REGISTRY_DAMAGED = Kind(
    "registry-damaged",
    "problem",
    "The list of registered models cannot be read",
    "Move {path} away, end a shared engine with `foundry-api down`, and register your models again"
    " with `foundry-api models add`.",
)
NOT_REGISTERED = Kind(
    "model-not-registered",
    "problem",
    "The shared engine could not register a model when it started",
    "Mend its directory, then start the engine again: `foundry-api down`, then `foundry-api up`.",
)
CATALOG_ANSWERS = Kind("catalog-answers", "ok", "The model catalog answers")
CATALOG_OFFLINE = Kind(
    "catalog-unreachable",
    "warning",
    "The model catalog cannot be reached",
    "Check the network, and set HTTPS_PROXY if yours needs a proxy. Models that are here, and"
    " `demo`, work without it.",
)
CATALOG_EMPTY = Kind(
    "catalog-empty",
    "warning",
    "The model catalog answers, but lists nothing",
    "It is reached, so the network is well. Try again later; models that are here work.",
)
WANTED_HERE = Kind("model-here", "ok", "The model is on this machine")
WANTED_NOT_CACHED = Kind(
    "model-not-cached",
    "note",
    "The model has to be downloaded before its first use",
    "Get it: `foundry-api models pull {name}`. `demo` works at once.",
)
WANTED_UNKNOWN = Kind(
    "model-unknown",
    "problem",
    "No model of that name is known",
    "See the names: `foundry-api models list --catalog`.",
)
WANTED_UNSEEN = Kind(
    "model-not-known",
    "note",
    "Whether the model exists is not known",
    "`foundry-api doctor --online --model {name}` tells, once the catalog can be reached.",
)


async def examine_registered(machine: Machine) -> Iterable[Finding]:
    """Look at the directories of registered models, without an engine."""
    return await in_thread(lambda: _registered(machine.paths))


def _registered(paths: Paths) -> list[Finding]:
    if (problem := damage_of(paths)) is not None:
        path = registry_file(paths)
        return [REGISTRY_DAMAGED.seen(f"{path}: {problem}", path=path)]
    entries = registered(paths)
    own = [entry for entry in entries if entry.model_info.alias != DEMO]  # kept up by every start
    found = [finding for entry in own for finding in _looked_up(entry)]
    if found or not own:
        return found
    return [REGISTERED.seen(", ".join(entry.model_info.id for entry in own))]


def _looked_up(entry: Registered) -> Iterator[Finding]:
    info, directory = entry.model_info, Path(entry.model_path)
    now, then = digest(directory), info.string_properties.get(DIGEST)
    if now is None:
        yield GONE.seen(f"{info.id} is registered at {directory}", name=info.id)
    elif then is not None and now != then:
        yield CHANGED.seen(
            f"{info.id}: the files in {directory} are not those that were registered",
            path=directory,
            alias=info.alias,
        )


async def examine_host(machine: Machine) -> Iterable[Finding]:
    """Ask the shared engine what it could not register."""
    control = await machine.control() if await machine.shared.get() else None
    if control is None:
        return []
    return [NOT_REGISTERED.seen(problem) for problem in (await control.host()).problems]


async def examine_catalog(machine: Machine) -> Iterable[Finding]:
    """Ask the remote catalog, where an engine runs already or the user wants it."""
    try:
        catalog = await machine.catalog.get()
    except CatalogUnavailable as error:
        return [CATALOG_OFFLINE.seen(error.message)]
    if catalog is None:
        return []
    if not catalog:
        return [CATALOG_EMPTY.seen("the engine reached it, and it lists no model")]
    return [CATALOG_ANSWERS.seen(f"it lists {len(catalog)} variants")]


async def wanted(machine: Machine) -> Model | None:
    """The model that the user wants, as a catalog describes it; None if none of them has it."""
    name, control = machine.model or machine.settings.model, await machine.control()
    if control is None or await registry_is_damaged(machine):
        return None
    here = find_model(name, await control.local_models())
    if here is not None:
        return here
    try:
        return find_model(name, await machine.catalog.get() or ())
    except CatalogUnavailable:
        return None


async def registry_is_damaged(machine: Machine) -> bool:
    """Whether no engine can tell of models. One finding says so, and what to do."""
    return await in_thread(lambda: damage_of(machine.paths)) is not None


async def examine_wanted(machine: Machine) -> Iterable[Finding]:
    """Look up the model that calls would use."""
    model, name = await wanted(machine), machine.model or machine.settings.model
    if model is not None:
        known = f"{name} is {model.id}"
        if model.cached is False:
            return [WANTED_NOT_CACHED.seen(f"{known}, whose files are not here", name=name)]
        return [WANTED_HERE.seen(known)]
    if machine.model is None or await registry_is_damaged(machine):
        return []  # nobody asked, and the default need not be here
    try:
        asked = await machine.catalog.get() is not None
    except CatalogUnavailable:
        return [_not_known(name, "cannot be reached")]
    if not asked:
        return [_not_known(name, "was not asked")]
    return [WANTED_UNKNOWN.seen(f"neither this machine nor the catalog has {name!r}")]


def _not_known(name: str, why: str) -> Finding:
    return WANTED_UNSEEN.seen(f"{name} is not registered here, and the catalog {why}", name=name)


GROUP = Group(
    "Models",
    (examine_registered, examine_host, examine_catalog, examine_wanted),
    (
        REGISTERED,
        CATALOG_ANSWERS,
        WANTED_HERE,
        GONE,
        CHANGED,
        REGISTRY_DAMAGED,
        NOT_REGISTERED,
        CATALOG_OFFLINE,
        CATALOG_EMPTY,
        WANTED_UNKNOWN,
        WANTED_NOT_CACHED,
        WANTED_UNSEEN,
    ),
)
