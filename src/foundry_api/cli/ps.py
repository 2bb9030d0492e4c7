"""`foundry-api ps`: which models are in memory, who uses them, and until when."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import print_json, print_table
from foundry_api.cli.services import find_all_services
from foundry_api.cli.session import Session
from foundry_api.client.client import FoundryAPIClient
from foundry_api.engine.control import ControlClient
from foundry_api.observe.format import format_duration, format_megabytes
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.types.models import Model, ModelUser
    from foundry_api.types.settings import Settings

__all__ = ["LoadedModel", "command", "make_rows"]

COLUMNS = ("MODEL", "SIZE", "USED BY", "UNTIL", "SERVICE")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in the memory of a service.

    Attributes:
        model: The model.
        service: The base URL of the service.
        users: The programs of this home that use it.
        idle_timeout_s: Seconds without use after which its engine stops; 0 for never, None if the
            service does not say it.
    """

    model: Model
    service: str
    users: tuple[ModelUser, ...]
    idle_timeout_s: float | None


@click.command("ps", epilog=format_examples("ps", "ps --json", "models unload demo"))
@common_options
@pass_common
def command(common: GlobalOptions) -> None:
    """Show models in memory, who uses them, and until when.

    Programs are listed from their first call until a minute after their last, if they use
    foundry-api with the same FOUNDRY_HOME. Nothing is started.
    """
    with Session(common) as session:
        models = session.run(_list_all(session.settings), "Looking for models ...")
    if common.as_json:
        print_json({"models": [_to_json(entry) for entry in models]})
    elif models:
        print_table(COLUMNS, make_rows(models))
    else:
        click.echo("No model is in memory.")


async def _list_all(settings: Settings) -> list[LoadedModel]:
    endpoints = await find_all_services(settings)
    found = await asyncio.gather(*(_list_loaded(endpoint, settings) for endpoint in endpoints))
    return [entry for entries in found for entry in entries]


async def _list_loaded(endpoint: Endpoint, settings: Settings) -> list[LoadedModel]:
    # The API key is meant for the configured URL, not for a service that was discovered.
    api_key = settings.api_key if endpoint.origin == "explicit" else None
    # An engine of ours is found again by its state file, which knows more of it than its URL.
    base_url = None if endpoint.origin == "shared" else endpoint.base_url
    own_settings = replace(settings, base_url=base_url, base_urls=(), api_key=api_key, cache="off")
    async with FoundryAPIClient(settings=own_settings) as client:
        loaded = await client.models.loaded()
        users = [tuple(await client.models.users(model.id)) for model in loaded]
    idle_timeout_s = await _get_idle_timeout_s(endpoint) if loaded else None
    return [
        LoadedModel(model, endpoint.base_url, used_by, idle_timeout_s)
        for model, used_by in zip(loaded, users, strict=True)
    ]


async def _get_idle_timeout_s(endpoint: Endpoint) -> float | None:
    if endpoint.control is None:
        return None
    from foundry_api.wire.http import HttpTransport  # noqa: PLC0415 - for engines of ours only

    async with aclosing(HttpTransport()) as transport:
        try:
            info = await ControlClient(transport, endpoint.control).get_host_info()
        except FoundryError:  # the engine stops right now
            return None
    return info.idle_timeout_s


def make_rows(models: list[LoadedModel]) -> Iterator[tuple[str, ...]]:
    """Return the rows of the table: one for each user, the first with the model."""
    for entry in models:
        first, *others = entry.users or (None,)
        until = "it is unloaded"
        if entry.idle_timeout_s:
            until = f"{format_duration(entry.idle_timeout_s)} without use"
        yield (
            entry.model.id,
            format_megabytes(entry.model.size_mb),
            str(first or ""),
            until,
            entry.service,
        )
        for user in others:
            yield "", "", str(user), "", ""


def _to_json(entry: LoadedModel) -> dict[str, Any]:
    return {
        "id": entry.model.id,
        "alias": entry.model.alias,
        "size_mb": entry.model.size_mb,
        "service": entry.service,
        "users": [msgspec.structs.asdict(user) for user in entry.users],
        "idle_timeout_s": entry.idle_timeout_s,
    }
