"""Prints models: as a table of variants, one by one with all details, or as JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.output import (
    print_fields,
    print_json,
    print_notice,
    print_table,
    sanitize_line,
)
from foundry_api.model_import.directory import read_record
from foundry_api.observe.format import format_age, format_count, format_megabytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from foundry_api.cli.options import GlobalOptions
    from foundry_api.core.catalog import CatalogListing
    from foundry_api.model_import.directory import ImportRecord
    from foundry_api.types.models import Model

__all__ = ["make_rows", "print_catalog_age", "print_model_details", "print_model_list", "to_json"]

COLUMNS = ("ALIAS", "STATE", "SIZE", "DEVICE", "TASK", "CONTEXT", "LICENCE", "ID")
CATALOGS = {"local": "local: registered on this machine", "public": "public"}
YES_NO = {True: "yes", False: "no", None: ""}


def print_model_list(
    common: GlobalOptions, models: Sequence[Model], listing: CatalogListing | None
) -> None:
    """Print models as a table or as JSON, and the age of the catalog listing if there is one."""
    if common.as_json:
        document: dict[str, Any] = {"models": [to_json(model) for model in _group_by_alias(models)]}
        if listing is not None:
            document["catalog"] = {
                "fetched_at": listing.fetched_at,
                "fresh": listing.fresh,
                "unreachable": listing.unreachable,
            }
        print_json(document)
        return
    if models:
        print_table(COLUMNS, make_rows(models))
    elif listing is not None:
        click.echo("No model is on this machine, and the catalog is empty.")
    else:
        click.echo(
            "No model is on this machine. `foundry-api models list --catalog` lists those of the "
            "catalog; download one with `foundry-api models pull NAME`."
        )
    if listing is not None:
        print_catalog_age(listing)


def print_model_details(common: GlobalOptions, models: Sequence[Model]) -> None:
    if common.as_json:
        print_json({"models": [to_json(model) for model in models]})
        return
    for number, model in enumerate(models):
        if number:
            click.echo()
        print_fields(model.id, _get_state(model), _make_fields(model))


def to_json(model: Model) -> dict[str, Any]:
    # With every member: the encoding of a Model leaves out members that are unknown.
    return msgspec.structs.asdict(model)


def make_rows(models: Iterable[Model]) -> Iterator[tuple[str, ...]]:
    """Return the rows of the table; only the first variant of an alias shows the alias."""
    last_alias = None
    for model in _group_by_alias(models):
        yield (
            "" if model.alias == last_alias else model.alias,
            _get_state(model),
            format_megabytes(model.size_mb),
            model.device or "",
            (model.task or "").removesuffix("-completion"),
            str(model.context_length or ""),
            model.license or "",
            model.id,
        )
        last_alias = model.alias


def print_catalog_age(listing: CatalogListing) -> None:
    """Warn on standard error if the catalog listing is not current."""
    if listing.fresh:
        return
    age = format_age(time.time() - listing.fetched_at)
    print_notice(f"The catalog cannot be reached; this listing was fetched {age}.")
    if listing.unreachable:
        print_notice(f"({sanitize_line(listing.unreachable)})")


def _group_by_alias(models: Iterable[Model]) -> list[Model]:
    # A group stands where its first variant was, because catalogs list the best one first.
    groups: dict[str, list[Model]] = {}
    for model in models:
        groups.setdefault(model.alias, []).append(model)
    return [model for group in groups.values() for model in group]


def _get_state(model: Model) -> str:
    if model.loaded:
        return "loaded"
    if _read_record(model):
        return "imported"
    return {True: "cached", False: "catalog", None: "unknown"}[model.cached]


def _read_record(model: Model) -> ImportRecord | None:
    return read_record(Path(model.path)) if model.catalog == "local" and model.path else None


def _make_fields(model: Model) -> list[tuple[str, str]]:
    record = _read_record(model)
    runs_on = [part for part in (model.device, model.execution_provider) if part]
    return [
        ("alias", model.alias),
        ("catalog", CATALOGS[model.catalog]),
        ("imported from", f"{record.source} ({record.precision})" if record else ""),
        ("publisher", model.publisher or ""),
        ("licence", model.license or ""),
        ("task", model.task or ""),
        ("runs on", ", ".join(runs_on)),
        ("size", format_megabytes(model.size_mb)),
        ("context", _format_tokens(model.context_length)),
        ("longest answer", _format_tokens(model.max_output_tokens)),
        ("calls tools", YES_NO[model.supports_tools]),
        ("made from", model.base_model or ""),
        ("files", model.path or ""),
    ]


def _format_tokens(count: int | None) -> str:
    return format_count(count, "token") if count else ""
