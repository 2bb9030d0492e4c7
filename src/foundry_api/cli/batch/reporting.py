"""The page about a batch: when it is finished, and when it stopped before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from foundry_api._version import __version__
from foundry_api.batch.journal import read_figures, read_status
from foundry_api.batch.report.facts import ReportFacts
from foundry_api.batch.report.page import page
from foundry_api.errors import BatchStorageFailed
from foundry_api.service.private_file import followed, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.figures import Figures
    from foundry_api.batch.job import BatchSummary
    from foundry_api.batch.options import BatchOptions
    from foundry_api.batch.report.facts import ReportState
    from foundry_api.cli.session import Session

__all__ = ["report_end", "report_stop"]


def report_end(path: str, options: BatchOptions, session: Session, summary: BatchSummary) -> None:
    """Write the page about a batch that is finished. Answers in a stream leave no figures for it.

    Raises:
        BatchStorageFailed: It cannot be written.
    """
    if summary.figures is None:
        return
    told = _page(
        options,
        state="finished with failures" if summary.failed else "finished",
        total=summary.total,
        figures=summary.figures,
        settings=_settings(options, session, summary.output, summary.errors),
    )
    hint = "The answers are written. Name another place; the same command goes on."
    _write(path, told, hint=hint)


def report_stop(path: str, options: BatchOptions, session: Session) -> None:
    """Write the page about a batch that stopped: what is there so far.

    Raises:
        BatchStorageFailed: It cannot be written, or the journal cannot be read.
    """
    status = read_status(options.directory)
    published = status.published
    written = (None, None) if published is None else (published.output, published.errors)
    told = _page(
        options,
        state="not finished",
        total=status.total,
        figures=read_figures(options.directory),
        settings=_settings(options, session, *written),
    )
    _write(path, told, hint="Name another place.")


def _page(
    options: BatchOptions,
    *,
    state: ReportState,
    total: int | None,
    figures: Figures,
    settings: tuple[tuple[str, str], ...],
) -> str:
    return page(
        ReportFacts(
            title=options.input.path,
            state=state,
            total=total,
            figures=figures,
            settings=settings,
            made_at=time.time(),
            version=__version__,
        )
    )


def _write(path: str, told: str, *, hint: str) -> None:
    try:
        replace_file(followed(path), told.encode())
    except OSError as error:
        raise BatchStorageFailed(
            f"the report {path} cannot be written: {error.strerror or error}", hint=hint
        ) from error


def _settings(
    options: BatchOptions, session: Session, output: Path | None, errors: Path | None
) -> tuple[tuple[str, str], ...]:
    read = options.input
    told = {
        "Input": read.path,
        "Answers": str(output or ""),
        "Failed lines": str(errors or ""),
        "Model of lines that name none": read.model or session.settings.model,
        "Set": ", ".join(f"{name}={value}" for name, value in read.members.items()),
        "Template": read.template or "",
        "System": read.system or "",
        "Services": ", ".join(service.name for service in session.client.services),
        "Order of the input kept": "yes" if options.ordered else "no",
        "Identical lines asked once": "yes" if options.dedupe else "no",
        "Attempts a line": str(options.attempts),
    }
    return tuple((name, value) for name, value in told.items() if value)
