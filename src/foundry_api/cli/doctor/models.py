"""Models: directories that are registered, the remote catalog, and the model that is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.cli.doctor.engine import DEMO
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.machine import run_abandonable
from foundry_api.core.connection import match_model
from foundry_api.engine.host.variants import DIGEST
from foundry_api.engine.models.directory import compute_digest
from foundry_api.engine.models.registry_file import find_damage, get_registry_path, read_registered
from foundry_api.types.errors import CatalogUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from foundry_api.cli.doctor.machine import DiagnosticContext
    from foundry_api.engine.models.registry_file import Registered
    from foundry_api.storage.paths import Paths
    from foundry_api.types.models import Model

__all__ = ["GROUP", "find_model_in_use"]

REGISTERED = FindingKind("registered-models", "ok", "Registered model directories are as they were")
GONE = FindingKind(
    "registered-model-gone",
    "problem",
    "A registered model's directory is gone",
    "Put it back, or forget it: `foundry-api models remove {name}`.",
)
CHANGED = FindingKind(
    "registered-model-changed",
    "warning",
    "A registered model's files changed",
    "Register it again, so that its description is right: `foundry-api models register {path}"
    " --alias {alias}`.",
)
REGISTRY_DAMAGED = FindingKind(
    "registry-damaged",
    "problem",
    "The list of registered models cannot be read",
    "Move {path} away, end a shared engine with `foundry-api down`, and register your models again"
    " with `foundry-api models register`.",
)
NOT_REGISTERED = FindingKind(
    "model-not-registered",
    "problem",
    "The shared engine could not register a model when it started",
    "Mend its directory, then start the engine again: `foundry-api down`, then `foundry-api up`.",
)
CATALOG_ANSWERS = FindingKind("catalog-answers", "ok", "The model catalog answers")
CATALOG_OFFLINE = FindingKind(
    "catalog-unreachable",
    "warning",
    "The model catalog cannot be reached",
    "Check the network, and set HTTPS_PROXY if yours needs a proxy. Models that are here, and"
    " `demo`, work without it.",
)
CATALOG_EMPTY = FindingKind(
    "catalog-empty",
    "warning",
    "The model catalog answers, but lists nothing",
    "It is reached, so the network is well. Try again later; models that are here work.",
)
MODEL_AVAILABLE = FindingKind("model-here", "ok", "The model is on this machine")
MODEL_NOT_CACHED = FindingKind(
    "model-not-cached",
    "note",
    "The model has to be downloaded before its first use",
    "Get it: `foundry-api models pull {name}`. `demo` works at once.",
)
MODEL_UNKNOWN = FindingKind(
    "model-unknown",
    "problem",
    "No model of that name is known",
    "See the names: `foundry-api models list --catalog`.",
)
MODEL_UNVERIFIED = FindingKind(
    "model-not-known",
    "note",
    "Whether the model exists is not known",
    "`foundry-api doctor --online --model {name}` tells, once the catalog can be reached.",
)


async def check_registered(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look at the directories of registered models, without an engine."""
    return await run_abandonable(lambda: _check_directories(machine.paths))


def _check_directories(paths: Paths) -> list[Finding]:
    if (problem := find_damage(paths)) is not None:
        path = get_registry_path(paths)
        return [REGISTRY_DAMAGED.make_finding(f"{path}: {problem}", path=path)]
    entries = read_registered(paths)
    own = [entry for entry in entries if entry.model_info.alias != DEMO]  # kept up by every start
    findings = [finding for entry in own for finding in _check_entry(entry)]
    if findings or not own:
        return findings
    return [REGISTERED.make_finding(", ".join(entry.model_info.id for entry in own))]


def _check_entry(entry: Registered) -> Iterator[Finding]:
    info, directory = entry.model_info, Path(entry.model_path)
    current_digest, registered_digest = (
        compute_digest(directory),
        info.string_properties.get(DIGEST),
    )
    if current_digest is None:
        yield GONE.make_finding(f"{info.id} is registered at {directory}", name=info.id)
    elif registered_digest is not None and current_digest != registered_digest:
        yield CHANGED.make_finding(
            f"{info.id}: the files in {directory} are not those that were registered",
            path=directory,
            alias=info.alias,
        )


async def check_host(machine: DiagnosticContext) -> Iterable[Finding]:
    """Ask the shared engine what it could not register."""
    control = await machine.get_control() if await machine.shared.get() else None
    if control is None:
        return []
    return [
        NOT_REGISTERED.make_finding(problem) for problem in (await control.get_host_info()).problems
    ]


async def check_catalog(machine: DiagnosticContext) -> Iterable[Finding]:
    """Ask the remote catalog, where an engine runs already or the user wants it."""
    try:
        catalog = await machine.catalog.get()
    except CatalogUnavailable as error:
        return [CATALOG_OFFLINE.make_finding(error.message)]
    if catalog is None:
        return []
    if not catalog:
        return [CATALOG_EMPTY.make_finding("the engine reached it, and it lists no model")]
    return [CATALOG_ANSWERS.make_finding(f"it lists {len(catalog)} variants")]


async def find_model_in_use(machine: DiagnosticContext) -> Model | None:
    """The model that the user wants, as a catalog describes it; None if none of them has it."""
    name, control = machine.model or machine.settings.model, await machine.get_control()
    if control is None or await registry_is_damaged(machine):
        return None
    local_model = match_model(name, await control.list_local_models())
    if local_model is not None:
        return local_model
    try:
        return match_model(name, await machine.catalog.get() or ())
    except CatalogUnavailable:
        return None


async def registry_is_damaged(machine: DiagnosticContext) -> bool:
    """Whether no engine can tell of models. One finding says so, and what to do."""
    return await run_abandonable(lambda: find_damage(machine.paths)) is not None


async def check_model(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look up the model that calls would use."""
    model, name = await find_model_in_use(machine), machine.model or machine.settings.model
    if model is not None:
        known = f"{name} is {model.id}"
        if model.cached is False:
            return [MODEL_NOT_CACHED.make_finding(f"{known}, whose files are not here", name=name)]
        return [MODEL_AVAILABLE.make_finding(known)]
    if machine.model is None or await registry_is_damaged(machine):
        return []  # nobody asked, and the default need not be here
    try:
        is_catalog_known = await machine.catalog.get() is not None
    except CatalogUnavailable:
        return [_make_unverified(name, "cannot be reached")]
    if not is_catalog_known:
        return [_make_unverified(name, "was not asked")]
    return [MODEL_UNKNOWN.make_finding(f"neither this machine nor the catalog has {name!r}")]


def _make_unverified(name: str, why: str) -> Finding:
    return MODEL_UNVERIFIED.make_finding(
        f"{name} is not registered here, and the catalog {why}", name=name
    )


GROUP = CheckGroup(
    "Models",
    (check_registered, check_host, check_catalog, check_model),
    (
        REGISTERED,
        CATALOG_ANSWERS,
        MODEL_AVAILABLE,
        GONE,
        CHANGED,
        REGISTRY_DAMAGED,
        NOT_REGISTERED,
        CATALOG_OFFLINE,
        CATALOG_EMPTY,
        MODEL_UNKNOWN,
        MODEL_NOT_CACHED,
        MODEL_UNVERIFIED,
    ),
)
