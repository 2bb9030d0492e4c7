"""Checks registered models, the remote catalog, and the model that calls would use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.engine import DEMO
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.core.connection import match_model
from foundry_api.engine.host.variants import DIGEST
from foundry_api.engine.models.directory import compute_digest
from foundry_api.engine.models.registry_file import find_damage, get_registry_path, read_registered
from foundry_api.types.errors import CatalogUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.context import DiagnosticContext
    from foundry_api.storage.paths import Paths
    from foundry_api.types.models import Model

__all__ = ["GROUP", "find_model_in_use"]

REGISTERED = FindingKind("registered-models", "ok", "Registered models are unchanged")
GONE = FindingKind(
    "registered-model-gone",
    "problem",
    "The directory of a registered model is missing",
    "Restore it, or unregister the model: `foundry-api models remove {name}`.",
)
CHANGED = FindingKind(
    "registered-model-changed",
    "warning",
    "The files of a registered model changed",
    "Register it again to update its description: `foundry-api models register {path}"
    " --alias {alias}`.",
)
REGISTRY_DAMAGED = FindingKind(
    "registry-damaged",
    "problem",
    "The list of registered models cannot be read",
    "Move {path} away, stop a shared engine with `foundry-api down`, and register your models again"
    " with `foundry-api models register`.",
)
NOT_REGISTERED = FindingKind(
    "model-not-registered",
    "problem",
    "The shared engine could not register a model at its start",
    "Fix its directory, then restart the engine: `foundry-api down`, then `foundry-api up`.",
)
CATALOG_ANSWERS = FindingKind("catalog-answers", "ok", "The model catalog is available")
CATALOG_OFFLINE = FindingKind(
    "catalog-unreachable",
    "warning",
    "The model catalog cannot be reached",
    "Check the network, and set HTTPS_PROXY if it requires a proxy. Models on this machine and"
    " `demo` work without the catalog.",
)
CATALOG_EMPTY = FindingKind(
    "catalog-empty",
    "warning",
    "The model catalog is empty",
    "The network works. Try again later; models on this machine work without the catalog.",
)
MODEL_AVAILABLE = FindingKind("model-here", "ok", "The model is on this machine")
MODEL_NOT_CACHED = FindingKind(
    "model-not-cached",
    "note",
    "The model must be downloaded before its first use",
    "Download it: `foundry-api models pull {name}`. `demo` needs no download.",
)
MODEL_UNKNOWN = FindingKind(
    "model-unknown",
    "problem",
    "There is no model with that name",
    "List the names: `foundry-api models list --catalog`.",
)
MODEL_UNVERIFIED = FindingKind(
    "model-not-known",
    "note",
    "It is unknown whether the model exists",
    "Run `foundry-api doctor --online --model {name}` when the catalog can be reached.",
)


async def check_registered(context: DiagnosticContext) -> Iterable[Finding]:
    return await run_abandonable(lambda: _check_directories(context.paths))


def _check_directories(paths: Paths) -> list[Finding]:
    if (problem := find_damage(paths)) is not None:
        path = get_registry_path(paths)
        return [REGISTRY_DAMAGED.make_finding(f"{path}: {problem}", path=path)]
    entries = read_registered(paths)
    # Each start of an engine registers the demo model again, if its files changed.
    own = [entry for entry in entries if entry.model_info.alias != DEMO]
    findings: list[Finding] = []
    for entry in own:
        info, directory = entry.model_info, entry.directory
        current_digest = compute_digest(directory)
        registered_digest = info.string_properties.get(DIGEST)
        if current_digest is None:
            evidence = f"{info.id} is registered at {directory}"
            findings.append(GONE.make_finding(evidence, name=info.id))
        elif registered_digest is not None and current_digest != registered_digest:
            evidence = f"{info.id}: the files in {directory} changed after the registration"
            findings.append(CHANGED.make_finding(evidence, path=directory, alias=info.alias))
    if findings or not own:
        return findings
    return [REGISTERED.make_finding(", ".join(entry.model_info.id for entry in own))]


async def check_host(context: DiagnosticContext) -> Iterable[Finding]:
    control = await context.get_control() if await context.shared.get() else None
    if control is None:
        return []
    host_info = await control.get_host_info()
    return [NOT_REGISTERED.make_finding(problem) for problem in host_info.problems]


async def check_catalog(context: DiagnosticContext) -> Iterable[Finding]:
    try:
        catalog = await context.catalog.get()
    except CatalogUnavailable as error:
        return [CATALOG_OFFLINE.make_finding(error.message)]
    if catalog is None:
        return []
    if not catalog:
        return [CATALOG_EMPTY.make_finding("it responds, but lists no model")]
    return [CATALOG_ANSWERS.make_finding(f"it lists {len(catalog)} variants")]


async def find_model_in_use(context: DiagnosticContext) -> Model | None:
    """Return the model that calls would use; None if neither this machine nor a catalog has it."""
    name, control = context.model or context.settings.model, await context.get_control()
    if control is None or await _is_registry_damaged(context):
        return None
    local_model = match_model(name, await control.list_local_models())
    if local_model is not None:
        return local_model
    try:
        return match_model(name, await context.catalog.get() or ())
    except CatalogUnavailable:
        return None


async def _is_registry_damaged(context: DiagnosticContext) -> bool:
    # Then no engine can list models, and the finding of the registry is the one to fix first.
    return await run_abandonable(lambda: find_damage(context.paths)) is not None


async def check_model(context: DiagnosticContext) -> Iterable[Finding]:
    model, name = await find_model_in_use(context), context.model or context.settings.model
    if model is not None:
        evidence = f"{name} is {model.id}"
        if model.cached is False:
            evidence += ", which is not on this machine"
            return [MODEL_NOT_CACHED.make_finding(evidence, name=name)]
        return [MODEL_AVAILABLE.make_finding(evidence)]
    if context.model is None or await _is_registry_damaged(context):
        return []  # the default model may be missing as long as it is not used
    try:
        is_catalog_known = await context.catalog.get() is not None
    except CatalogUnavailable:
        return [_make_unverified(name, "cannot be reached")]
    if not is_catalog_known:
        return [_make_unverified(name, "was not queried")]
    return [MODEL_UNKNOWN.make_finding(f"neither this machine nor the catalog has {name!r}")]


def _make_unverified(name: str, reason: str) -> Finding:
    return MODEL_UNVERIFIED.make_finding(
        f"{name} is not on this machine, and the catalog {reason}", name=name
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
