"""Getting a model that is not on this machine, when the user says so."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from foundry_api.cli.output import is_terminal, sanitize_line
from foundry_api.core.connection import match_model
from foundry_api.observe.format import (
    format_duration,
    format_megabytes,
    format_percent,
    format_rate,
)
from foundry_api.types.errors import FoundryError, ModelNotCached

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from foundry_api.cli.session import Session
    from foundry_api.client.client import FoundryAPIClient
    from foundry_api.core.downloads import DownloadProgress
    from foundry_api.types.models import Model

    ProgressCallback = Callable[[DownloadProgress], object]

__all__ = ["format_progress", "pull", "retry_after_download"]

COMPLETE = 100.0
LINE_EVERY_S = 10.0
JSON_EVERY_S = 2.0

_T = TypeVar("_T")


def retry_after_download(
    session: Session,
    attempt: Callable[[], Coroutine[Any, Any, _T]],
    *,
    yes: bool,
    ask: bool,
    waiting: str = "",
) -> _T:
    """What an attempt returns, if need be after a download of its model.

    Args:
        session: The client and its loop.
        attempt: Makes the coroutine to run, once or twice.
        yes: Download without a question.
        ask: Ask on a terminal.
        waiting: What to tell on a terminal when an attempt takes long.

    Raises:
        ModelNotCached: The model is not here, and the user did not want it.
    """
    try:
        return session.run(attempt(), waiting)
    except ModelNotCached as error:
        if not error.model or not (yes or (ask and _confirm_download(session, error))):
            raise
        pull(session, error.model)
    return session.run(attempt(), waiting)


def pull(session: Session, name: str, *, as_json: bool = False) -> Model:
    """Download a model and tell how far it is. Ctrl-C stops it.

    On a terminal a bar shows it, elsewhere lines on standard error do.

    Args:
        session: The client and its loop.
        name: The model.
        as_json: Whether the lines are JSON.
    """
    with (
        _show_bar(name)
        if is_terminal(sys.stderr)
        else _print_lines(name, as_json=as_json) as on_progress
    ):
        last = [0.0]

        def report(current: DownloadProgress) -> None:
            last[0] = current.percent
            on_progress(current)

        try:
            return session.run(session.client.models.download(name, report))
        except KeyboardInterrupt:
            text = (
                f"{name} is stopped, with {format_percent(last[0])} here. "
                "Pulling it again goes on from there."
            )
    click.echo(sanitize_line(text), err=True)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _show_bar(name: str) -> Generator[ProgressCallback]:
    from rich.console import Console  # noqa: PLC0415 - only terminals have a progress bar
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - as above

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[told]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(sanitize_line(name), total=100, told="asking for it ...")
        yield lambda current: bar.update(
            task, completed=current.percent, told=format_progress(current)
        )


@contextlib.contextmanager
def _print_lines(name: str, *, as_json: bool) -> Generator[ProgressCallback]:
    """Lines now and then, for a log or a program; none for what is over before the first is due."""
    every_s = JSON_EVERY_S if as_json else LINE_EVERY_S
    due = time.monotonic() + every_s

    def report(current: DownloadProgress) -> None:
        nonlocal due
        if time.monotonic() < due:
            return
        due = time.monotonic() + every_s
        text = (
            _format_json_line(name, current)
            if as_json
            else f"{sanitize_line(name)}: {format_progress(current)}"
        )
        click.echo(text, err=True)

    yield report


def format_progress(progress: DownloadProgress) -> str:
    """`41%, 1.1 GB of 2.6 GB, 12 MB/s, 2 min left`, of which what is not known is left out."""
    parts = [f"{format_percent(progress.percent)}"]
    if progress.done_mb is not None:
        parts.append(
            f"{format_megabytes(progress.done_mb)} of {format_megabytes(progress.total_mb)}"
        )
    if progress.mb_per_s is not None:
        parts.append(f"{format_rate(progress.mb_per_s)} MB/s")
    if progress.remaining_s is not None and progress.percent < COMPLETE:
        parts.append(f"{format_duration(max(1.0, round(progress.remaining_s)))} left")
    return ", ".join(parts)


def _format_json_line(name: str, progress: DownloadProgress) -> str:
    members = {"model": name, **msgspec.structs.asdict(progress)}
    return msgspec.json.encode({"progress": members}).decode()


def _confirm_download(session: Session, error: ModelNotCached) -> bool:
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return False
    size = session.run(_format_size(session.client, error.model or ""))
    click.echo(f"{sanitize_line(error.message)}.", err=True)
    return click.confirm(f"Download it now{size}?", err=True)


async def _format_size(client: FoundryAPIClient, name: str) -> str:
    """How much there is to download, where the catalog tells."""
    try:
        model = match_model(name, await client.models.list(catalog=True))
    except FoundryError:
        return ""
    return f" ({format_megabytes(model.size_mb)})" if model and model.size_mb else ""
