"""`foundry-api cache`: what is kept of answers, and getting rid of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from foundry_api.cli.options import Common, examples, output_options, pass_common
from foundry_api.cli.output import print_fields, print_json, print_table, sanitize_line
from foundry_api.cli.session import settings_of
from foundry_api.core.cache.sqlite import SqliteCache
from foundry_api.observe.format import format_bytes, format_percent
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from foundry_api.core.cache.base import CacheStats

__all__ = ["command"]

_T = TypeVar("_T")

TURN_ON = "Turn it on with FOUNDRY_CACHE=sqlite, or with cache=SqliteCache() in a program."

FILE = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file, if it is not the one that FOUNDRY_CACHE names, or the one in the home.",
)
EPILOG = examples(
    "cache stats",
    "cache stats --json",
    "cache clear",
    "cache clear --file ./answers.db",
)


@click.group("cache", epilog=EPILOG, invoke_without_command=True)
@output_options
@pass_common
@click.pass_context
def command(context: click.Context, common: Common) -> None:
    """See and clear the answers that are kept.

    Programs keep answers in a file with FOUNDRY_CACHE=sqlite or cache=SqliteCache(), so that who
    asks the same again gets the same without the engine. Without a command, tell what is kept.
    """
    if context.invoked_subcommand is None:
        _show(common, None)


@command.command("stats", epilog=examples("cache stats", "cache stats --file ./answers.db --json"))
@FILE
@output_options
@pass_common
def stats_command(common: Common, path: Path | None) -> None:
    """Tell what is kept, and how often it was of use.

    The counts are those of all programs since the file was made.
    """
    _show(common, path)


@command.command("clear", epilog=examples("cache clear", "cache clear --file ./answers.db"))
@FILE
@output_options
@pass_common
def clear_command(common: Common, path: Path | None) -> None:
    """Delete every answer, also those in damaged files that were set aside.

    Programs that use the file may go on; they begin anew.
    """
    file = _file_of(common, path)
    count = _run(SqliteCache(file), SqliteCache.clear)
    if common.as_json:
        print_json({"file": str(file), "cleared": count})
    elif count:
        click.echo(sanitize_line(f"{_answers(count)} deleted from {file}."))
    else:
        click.echo(sanitize_line(f"No answers were kept in {file}."))


def _show(common: Common, path: Path | None) -> None:
    file = _file_of(common, path)
    stats, models = _run(SqliteCache(file), _read)
    if common.as_json:
        print_json(_told(file, stats, models))
        return
    state = "in use" if stats.entries else "empty"
    print_fields(
        str(file),
        state if os.path.lexists(file) else "not there",
        [
            ("answers", f"{stats.entries}, {format_bytes(stats.bytes)}" if stats.entries else ""),
            ("lookups", _lookups(stats)),
            ("kept", f"{stats.stores} so far, {stats.evictions} had to go" if stats.stores else ""),
        ],
    )
    if models:
        click.echo()
        rows = [[model, str(count), format_bytes(size)] for model, (count, size) in models.items()]
        print_table(["MODEL", "ANSWERS", "SIZE"], rows)
    if not os.path.lexists(file):
        click.echo(TURN_ON)


def _told(file: Path, stats: CacheStats, models: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """For programs. The bound is each program's own, so this one knows none."""
    return {
        "file": str(file),
        "exists": os.path.lexists(file),
        "entries": stats.entries,
        "bytes": stats.bytes,
        "hits": stats.hits,
        "misses": stats.misses,
        "stores": stats.stores,
        "evictions": stats.evictions,
        "models": [
            {"model": model, "entries": count, "bytes": size}
            for model, (count, size) in models.items()
        ],
    }


async def _read(cache: SqliteCache) -> tuple[CacheStats, dict[str, tuple[int, int]]]:
    return await cache.stats(), await cache.models()


def _run(cache: SqliteCache, ask: Callable[[SqliteCache], Coroutine[Any, Any, _T]]) -> _T:
    async def asked() -> _T:
        try:
            return await ask(cache)
        finally:
            await cache.close()

    return asyncio.run(asked())


def _file_of(common: Common, path: Path | None) -> Path:
    settings = settings_of(common)
    if path is not None:
        return path.expanduser()
    if isinstance(settings.cache, Path):
        return settings.cache.expanduser()
    return Paths.of(settings.home).answers_file


def _lookups(stats: CacheStats) -> str:
    lookups = stats.hits + stats.misses
    return (
        f"{stats.hits} of {lookups} found ({format_percent(stats.hits, lookups)})"
        if lookups
        else ""
    )


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"
