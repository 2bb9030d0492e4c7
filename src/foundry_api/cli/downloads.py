"""Model downloads with their progress, after a question to the user where one is due."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from foundry_api.cli.output import is_terminal, print_notice, sanitize_line
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
    from foundry_api.core.downloads import DownloadProgress
    from foundry_api.types.models import Model

    ProgressCallback = Callable[[DownloadProgress], object]

__all__ = ["format_progress", "pull", "retry_after_download"]

COMPLETE_PERCENT = 100.0
LINE_EVERY_S = 10.0
JSON_EVERY_S = 2.0

_T = TypeVar("_T")


def retry_after_download(
    session: Session,
    attempt: Callable[[], Coroutine[Any, Any, _T]],
    *,
    yes: bool,
    ask: bool,
    description: str = "",
) -> _T:
    """Run an attempt; if its model is not downloaded, download it with consent and run it again."""
    try:
        return session.run(attempt(), description)
    except ModelNotCached as error:
        if not error.model or not (yes or (ask and _confirm_download(session, error))):
            raise
        pull(session, error.model)
    return session.run(attempt(), description)


def _confirm_download(session: Session, error: ModelNotCached) -> bool:
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return False
    size = ""
    # The question is asked even if the size is unknown.
    with contextlib.suppress(FoundryError):
        catalog = session.run(session.client.models.list(catalog=True))
        model = match_model(error.model or "", catalog)
        if model is not None and model.size_mb:
            size = f" ({format_megabytes(model.size_mb)})"
    print_notice(f"{sanitize_line(error.message)}.")
    return click.confirm(f"Download it now{size}?", err=True)


def pull(session: Session, name: str, *, as_json: bool = False) -> Model:
    """Download a model and show progress: a bar on a terminal, else lines on standard error."""
    with (
        _show_bar(name)
        if is_terminal(sys.stderr)
        else _print_lines(name, as_json=as_json) as on_progress
    ):
        percent = 0.0

        def report(progress: DownloadProgress) -> None:
            nonlocal percent
            percent = progress.percent
            on_progress(progress)

        try:
            return session.run(session.client.models.download(name, report))
        except KeyboardInterrupt:
            message = f"The download of {name} was stopped at {format_percent(percent)}."
    # Printed below, because the bar would overwrite it.
    print_notice(sanitize_line(f"{message} Pull it again to resume."))
    raise KeyboardInterrupt


@contextlib.contextmanager
def _show_bar(name: str) -> Generator[ProgressCallback]:
    from rich.console import Console  # noqa: PLC0415 - only terminals have a progress bar
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - as above

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(sanitize_line(name), total=COMPLETE_PERCENT, state="starting ...")
        yield lambda progress: bar.update(
            task, completed=progress.percent, state=format_progress(progress)
        )


@contextlib.contextmanager
def _print_lines(name: str, *, as_json: bool) -> Generator[ProgressCallback]:
    every_s = JSON_EVERY_S if as_json else LINE_EVERY_S
    # The first line is due after an interval: a download that is over by then needs none.
    due_at = time.monotonic() + every_s

    def report(progress: DownloadProgress) -> None:
        nonlocal due_at
        if time.monotonic() < due_at:
            return
        due_at = time.monotonic() + every_s
        if as_json:
            members = {"model": name, **msgspec.structs.asdict(progress)}
            line = msgspec.json.encode({"progress": members}).decode()
        else:
            line = f"{sanitize_line(name)}: {format_progress(progress)}"
        click.echo(line, err=True)

    yield report


def format_progress(progress: DownloadProgress) -> str:
    """Format as `41%, 1.1 GB of 2.6 GB, 12 MB/s, 2 min left`, without what is unknown."""
    parts = [format_percent(progress.percent)]
    if progress.done_mb is not None:
        parts.append(
            f"{format_megabytes(progress.done_mb)} of {format_megabytes(progress.total_mb)}"
        )
    if progress.mb_per_s is not None:
        parts.append(f"{format_rate(progress.mb_per_s)} MB/s")
    if progress.remaining_s is not None and progress.percent < COMPLETE_PERCENT:
        parts.append(f"{format_duration(max(1.0, round(progress.remaining_s)))} left")
    return ", ".join(parts)
