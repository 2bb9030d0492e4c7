"""`foundry-api cache`: show and clear the response cache."""

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
from foundry_api.observe.format import format_bytes, format_count, format_int, format_percent
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from foundry_api.core.cache.base import CacheStats

__all__ = ["command"]

_T = TypeVar("_T")

TURN_ON_HINT = "Turn it on with `foundry-api config set cache sqlite`."

FILE_OPTION = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Cache file. [FOUNDRY_CACHE, else the default file]",
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
    """Show or clear the response cache.

    With FOUNDRY_CACHE=sqlite or cache=SqliteCache(), programs store answers in a file and reuse
    them for identical requests. Without a command, shows statistics.
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
    """Show the size and the hit rate of the cache.

    Counts include all programs since the file was created.
    """
    _print_cache(common, path)


@command.command("clear", epilog=format_examples("cache clear", "cache clear --file ./answers.db"))
@FILE_OPTION
@output_options
@pass_common
def clear_command(common: GlobalOptions, path: Path | None) -> None:
    """Delete all cached answers.

    Also deletes damaged cache files that were set aside. Programs that are using the cache continue
    with an empty one.
    """
    file = _get_file(common, path)
    count = _query(SqliteCache(file), SqliteCache.clear)
    if common.as_json:
        print_json({"file": str(file), "cleared": count})
    elif count:
        click.echo(sanitize_line(f"{format_count(count, 'answer')} deleted from {file}."))
    else:
        click.echo(sanitize_line(f"There are no answers in {file}."))


def _print_cache(common: GlobalOptions, path: Path | None) -> None:
    file = _get_file(common, path)

    async def read(cache: SqliteCache) -> tuple[CacheStats, dict[str, tuple[int, int]]]:
        return await cache.stats(), await cache.models()

    stats, models = _query(SqliteCache(file), read)
    if common.as_json:
        print_json(_to_json(file, stats, models))
        return
    state = "in use" if stats.entries else "empty"
    lookups = stats.hits + stats.misses
    found = f"{format_int(stats.hits)} of {format_int(lookups)} found"
    print_fields(
        str(file),
        state if os.path.lexists(file) else "does not exist",
        [
            (
                "answers",
                f"{format_int(stats.entries)}, {format_bytes(stats.bytes)}"
                if stats.entries
                else "",
            ),
            ("lookups", f"{found} ({format_percent(stats.hits, lookups)})" if lookups else ""),
            (
                "stored",
                f"{format_int(stats.stores)} in total, {format_int(stats.evictions)} evicted"
                if stats.stores
                else "",
            ),
        ],
    )
    if models:
        click.echo()
        rows = [
            [model, format_int(count), format_bytes(size)]
            for model, (count, size) in models.items()
        ]
        print_table(["MODEL", "ANSWERS", "SIZE"], rows)
    if not os.path.lexists(file):
        click.echo(TURN_ON_HINT)


def _to_json(file: Path, stats: CacheStats, models: dict[str, tuple[int, int]]) -> dict[str, Any]:
    # Without a maximum size: each program sets its own, which the file does not record.
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
