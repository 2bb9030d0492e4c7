"""How models are shown: as a table of variants, one by one with all that is known, and as JSON."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.output import print_fields, print_json, print_table, sanitize_line
from foundry_api.observe.format import format_age, format_megabytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from foundry_api.cli.options import Common
    from foundry_api.core.catalog import CatalogListing
    from foundry_api.types.messages import Model

__all__ = ["described", "list_models", "rows", "show_models", "tell_age"]

COLUMNS = ("ALIAS", "STATE", "SIZE", "DEVICE", "TASK", "CONTEXT", "LICENCE", "ID")
CATALOGS = {"local": "local: a directory of your own", "public": "public"}
KNOWN = {True: "yes", False: "no", None: ""}


def list_models(common: Common, models: Sequence[Model], listing: CatalogListing | None) -> None:
    """Print models in a table or as JSON, with the catalog's age where it was asked for."""
    if common.as_json:
        catalog = {} if listing is None else {"catalog": _age(listing)}
        print_json({"models": [described(model) for model in _grouped(models)], **catalog})
        return
    if models:
        print_table(COLUMNS, rows(models))
    elif listing is not None:
        click.echo("No model is on this machine, and the catalog is empty.")
    else:
        click.echo(
            "No model is on this machine. `foundry-api models list --catalog` shows which there "
            "are; get one with `foundry-api models pull NAME`."
        )
    if listing is not None:
        tell_age(listing)


def show_models(common: Common, models: Sequence[Model]) -> None:
    """Print all that is known of each model."""
    if common.as_json:
        print_json({"models": [described(model) for model in models]})
        return
    for number, model in enumerate(models):
        if number:
            click.echo()
        print_fields(model.id, _state(model), _fields(model))


def described(model: Model) -> dict[str, Any]:
    """A model with every member: its own encoding leaves out what is not known."""
    return msgspec.structs.asdict(model)


def rows(models: Iterable[Model]) -> Iterator[tuple[str, ...]]:
    """Models as rows of the table, those of one alias together and named once."""
    last = None
    for model in _grouped(models):
        yield (
            "" if model.alias == last else model.alias,
            _state(model),
            format_megabytes(model.size_mb),
            model.device or "",
            (model.task or "").removesuffix("-completion"),
            str(model.context_length or ""),
            model.license or "",
            model.id,
        )
        last = model.alias


def tell_age(listing: CatalogListing) -> None:
    """Say to standard error that a catalog is not of now, and of when it is."""
    if listing.fresh:
        return
    when = format_age(time.time() - listing.fetched_at)
    click.echo(f"The catalog cannot be reached; this is the one of {when}.", err=True)
    if listing.unreachable:
        click.echo(f"({sanitize_line(listing.unreachable)})", err=True)


def _age(listing: CatalogListing) -> dict[str, Any]:
    return {
        "fetched_at": listing.fetched_at,
        "fresh": listing.fresh,
        "unreachable": listing.unreachable,
    }


def _grouped(models: Iterable[Model]) -> list[Model]:
    """Variants of one alias together, where the first of them was: catalogs list the best first."""
    groups: dict[str, list[Model]] = {}
    for model in models:
        groups.setdefault(model.alias, []).append(model)
    return [model for group in groups.values() for model in group]


def _state(model: Model) -> str:
    if model.loaded:
        return "loaded"
    return {True: "cached", False: "catalog", None: "unknown"}[model.cached]


def _fields(model: Model) -> list[tuple[str, str]]:
    runs_on = [part for part in (model.device, model.execution_provider) if part]
    return [
        ("alias", model.alias),
        ("catalog", CATALOGS[model.catalog]),
        ("publisher", model.publisher or ""),
        ("licence", model.license or ""),
        ("task", model.task or ""),
        ("runs on", ", ".join(runs_on)),
        ("size", format_megabytes(model.size_mb)),
        ("context", _tokens(model.context_length)),
        ("longest answer", _tokens(model.max_output_tokens)),
        ("calls tools", KNOWN[model.supports_tools]),
        ("made from", model.parent or ""),
        ("files", model.path or ""),
    ]


def _tokens(count: int | None) -> str:
    return f"{count} tokens" if count else ""
