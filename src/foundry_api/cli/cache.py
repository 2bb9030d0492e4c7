"""`foundry-api cache`: what is kept of answers, and getting rid of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import print_fields, print_json, print_table, sanitize_line
from foundry_api.cli.session import make_settings
from foundry_api.core.cache.sqlite import SqliteCache
from foundry_api.observe.format import format_bytes, format_percent
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from foundry_api.core.cache.base import CacheStats

__all__ = ["command"]

_T = TypeVar("_T")

TURN_ON_HINT = "Turn it on with FOUNDRY_CACHE=sqlite, or with cache=SqliteCache() in a program."

FILE_OPTION = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file, if it is not the one that FOUNDRY_CACHE names, or the one in the home.",
)
EPILOG = format_examples(
    "cache stats",
    "cache stats --json",
    "cache clear",
    "cache clear --file ./answers.db",
)


@click.group("cache", epilog=EPILOG, invoke_without_command=True)
@output_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions) -> None:
    """See and clear the answers that are kept.

    Programs keep answers in a file with FOUNDRY_CACHE=sqlite or cache=SqliteCache(), so that who
    asks the same again gets the same without the engine. Without a command, tell what is kept.
    """
    if context.invoked_subcommand is None:
        _print_cache(common, None)


@command.command(
    "stats", epilog=format_examples("cache stats", "cache stats --file ./answers.db --json")
)
@FILE_OPTION
@output_options
@pass_common
def stats_command(common: GlobalOptions, path: Path | None) -> None:
    """Tell what is kept, and how often it was of use.

    The counts are those of all programs since the file was made.
    """
    _print_cache(common, path)


@command.command("clear", epilog=format_examples("cache clear", "cache clear --file ./answers.db"))
@FILE_OPTION
@output_options
@pass_common
def clear_command(common: GlobalOptions, path: Path | None) -> None:
    """Delete every answer, also those in damaged files that were set aside.

    Programs that use the file may go on; they begin anew.
    """
    file = _get_file(common, path)
    count = _query(SqliteCache(file), SqliteCache.clear)
    if common.as_json:
        print_json({"file": str(file), "cleared": count})
    elif count:
        click.echo(sanitize_line(f"{_format_answers(count)} deleted from {file}."))
    else:
        click.echo(sanitize_line(f"No answers were kept in {file}."))


def _print_cache(common: GlobalOptions, path: Path | None) -> None:
    file = _get_file(common, path)
    stats, models = _query(SqliteCache(file), _query_cache)
    if common.as_json:
        print_json(_to_json(file, stats, models))
        return
    state = "in use" if stats.entries else "empty"
    print_fields(
        str(file),
        state if os.path.lexists(file) else "not there",
        [
            ("answers", f"{stats.entries}, {format_bytes(stats.bytes)}" if stats.entries else ""),
            ("lookups", _format_lookups(stats)),
            ("kept", f"{stats.stores} so far, {stats.evictions} had to go" if stats.stores else ""),
        ],
    )
    if models:
        click.echo()
        rows = [[model, str(count), format_bytes(size)] for model, (count, size) in models.items()]
        print_table(["MODEL", "ANSWERS", "SIZE"], rows)
    if not os.path.lexists(file):
        click.echo(TURN_ON_HINT)


def _to_json(file: Path, stats: CacheStats, models: dict[str, tuple[int, int]]) -> dict[str, Any]:
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


async def _query_cache(cache: SqliteCache) -> tuple[CacheStats, dict[str, tuple[int, int]]]:
    return await cache.stats(), await cache.models()


def _query(cache: SqliteCache, query: Callable[[SqliteCache], Coroutine[Any, Any, _T]]) -> _T:
    async def call() -> _T:
        try:
            return await query(cache)
        finally:
            await cache.close()

    return asyncio.run(call())


def _get_file(common: GlobalOptions, path: Path | None) -> Path:
    settings = make_settings(common)
    if path is not None:
        return path.expanduser()
    if isinstance(settings.cache, Path):
        return settings.cache.expanduser()
    return Paths.from_home(settings.home).cache_file


def _format_lookups(stats: CacheStats) -> str:
    lookups = stats.hits + stats.misses
    return (
        f"{stats.hits} of {lookups} found ({format_percent(stats.hits, lookups)})"
        if lookups
        else ""
    )


def _format_answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"
