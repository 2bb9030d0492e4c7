"""Getting a model that is not on this machine, when the user says so."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from foundry_api.cli.output import is_terminal, megabytes
from foundry_api.connection import find_model
from foundry_api.errors import FoundryError, ModelNotCached

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from foundry_api.cli.session import Session
    from foundry_api.client import FoundryAPIClient
    from foundry_api.messages import Model

__all__ = ["pull", "run_with_download"]

_T = TypeVar("_T")


def run_with_download(
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
        if not error.model or not (yes or (ask and _wanted(session, error))):
            raise
        pull(session, error.model)
    return session.run(attempt(), waiting)


def pull(session: Session, name: str) -> Model:
    """Download a model, with a progress bar on a terminal. Ctrl-C stops it."""
    if not is_terminal(sys.stderr):
        return session.run(session.client.models.download(name))
    from rich.console import Console  # noqa: PLC0415 - only terminals have a progress bar
    from rich.progress import Progress  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=100)
        return session.run(
            session.client.models.download(
                name, lambda percent: progress.update(task, completed=percent)
            )
        )


def _wanted(session: Session, error: ModelNotCached) -> bool:
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return False
    size = session.run(_size(session.client, error.model or ""))
    click.echo(f"{error.message}.", err=True)
    return click.confirm(f"Download it now{size}?", err=True)


async def _size(client: FoundryAPIClient, name: str) -> str:
    """How much there is to download, where the catalog tells."""
    try:
        model = find_model(name, await client.models.list(catalog=True))
    except FoundryError:
        return ""
    return f" ({megabytes(model.size_mb)})" if model and model.size_mb else ""
