"""What a batch came to, told at its end."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from foundry_api._version import __version__
from foundry_api.batch.failures import is_permanent_failure
from foundry_api.batch.journal import read_statistics, read_status
from foundry_api.batch.report.page import ReportData, render_page
from foundry_api.cli.output import STATE_COLOURS, sanitize_line
from foundry_api.observe.format import format_count, format_duration, format_int, format_rate
from foundry_api.storage.private_file import replace_file, resolve_link
from foundry_api.types.errors import BatchStorageFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from foundry_api.batch.job import BatchSummary
    from foundry_api.batch.report.page import ReportState
    from foundry_api.batch.statistics import BatchStatistics, ErrorStatistics
    from foundry_api.batch.types import BatchOptions
    from foundry_api.cli.session import Session
    from foundry_api.observe.histogram import Distribution

__all__ = ["make_retry_advice", "print_summary", "to_json", "write_partial_report", "write_report"]


QUANTILES = (0.5, 0.9, 0.99)
WIDTH = 12
MAX_ERRORS = 5


def print_summary(options: BatchOptions, summary: BatchSummary) -> None:
    """In words, on standard output; where the answers went there, on standard error."""
    err = options.to_stream
    state, colour = "finished", STATE_COLOURS["healthy"]
    if summary.failed:
        state, colour = "finished, but some lines failed", STATE_COLOURS["degraded"]
    elif not summary.total:
        message = f"finished, but {options.input.path} has no lines, so nothing was asked"
        state, colour = sanitize_line(message), STATE_COLOURS["degraded"]
    click.secho(state, fg=colour, bold=True, err=err)
    for name, message in _make_fields(options, summary):
        if message:
            click.echo(f"  {name.ljust(WIDTH)}{sanitize_line(message)}", err=err)
    if summary.figures is not None and summary.figures.errors:
        _print_errors(summary.figures.errors, err=err)
    if summary.figures is not None and not err:
        message = make_retry_advice(
            options.output, {error.code: error.count for error in summary.figures.errors}
        )
        if message:
            click.echo(sanitize_line(message))


def make_retry_advice(output: str, failures: Mapping[str, int]) -> str:
    """What to do about the lines that failed; nothing without any.

    Args:
        output: As the command names it.
        failures: How many failed, by the name of the error's type.
    """
    hopeless = sum(count for code, count in failures.items() if is_permanent_failure(code))
    if not sum(failures.values()):
        return ""
    if hopeless == sum(failures.values()):
        return "Asked again they fail again: correct them, in a file of their own, and run that."
    message = f"Ask them again with: foundry-api batch retry {shlex.quote(output)}"
    if hopeless:
        such = "fails" if hopeless == 1 else "fail"
        message += f" ({format_int(hopeless)} of them {such} again: correct in a file of their own)"
    return message


def to_json(options: BatchOptions, summary: BatchSummary) -> dict[str, Any]:
    """As JSON."""
    figures = summary.figures
    return {
        "input": options.input.path,
        "output": None if summary.output is None else str(summary.output),
        "errors": None if summary.errors is None else str(summary.errors),
        "report": options.report,
        "total": summary.total,
        "done": summary.done,
        "failed": summary.failed,
        "shared": summary.shared,
        "resumed": summary.resumed,
        "elapsed_s": summary.elapsed_s,
        "lines_per_s": _get_lines_per_s(summary),
        "tokens_per_s": _get_tokens_per_s(summary),
        **({} if figures is None else _all_runs_to_json(figures)),
    }


def _all_runs_to_json(figures: BatchStatistics) -> dict[str, Any]:
    return {
        "prompt_tokens": figures.prompt_tokens,
        "completion_tokens": figures.completion_tokens,
        "all_runs_s": figures.elapsed_s,
        "latency_s": _distribution_to_json(figures.latency),
        "time_to_first_token_s": _distribution_to_json(figures.time_to_first_token),
        "failures": figures.errors,
        "models": figures.models,
    }


def _distribution_to_json(distribution: Distribution) -> dict[str, float] | None:
    if not distribution.count:
        return None
    return {f"p{share * 100:g}": distribution.quantile(share) for share in QUANTILES}


def _make_fields(options: BatchOptions, summary: BatchSummary) -> list[tuple[str, str]]:
    figures = summary.figures
    fields = [("lines", _format_lines(summary)), ("time", _format_time(summary))]
    if figures is not None:
        written, read = format_int(figures.completion_tokens), format_int(figures.prompt_tokens)
        fields += [
            ("tokens", f"{written} written, {read} read"),
            ("latency", _format_quantiles(figures.latency)),
            ("first token", _format_quantiles(figures.time_to_first_token)),
        ]
    return [
        *fields,
        ("answers", "" if summary.output is None else str(summary.output)),
        ("failed", "" if summary.errors is None else str(summary.errors)),
        ("report", options.report or ""),
    ]


def _format_lines(summary: BatchSummary) -> str:
    parts = [f"{format_count(summary.total, 'line')}: {format_int(summary.done)} answered"]
    if summary.failed:
        parts.append(f"{format_int(summary.failed)} failed")
    if summary.shared:
        parts.append(f"{format_int(summary.shared)} took a known answer")
    if summary.resumed:
        parts.append(f"{format_int(summary.resumed)} finished before")
    return ", ".join(parts)


def _format_time(summary: BatchSummary) -> str:
    text = format_duration(summary.elapsed_s)
    if summary.done + summary.failed == summary.resumed:
        return text
    lines, tokens = format_rate(_get_lines_per_s(summary)), format_rate(_get_tokens_per_s(summary))
    return f"{text}, {lines} lines/s, {tokens} tokens/s"


def _get_lines_per_s(summary: BatchSummary) -> float:
    """Of this run."""
    finished = summary.done + summary.failed - summary.resumed
    return finished / summary.elapsed_s if summary.elapsed_s else 0.0


def _get_tokens_per_s(summary: BatchSummary) -> float:
    """Of this run."""
    return summary.tokens / summary.elapsed_s if summary.elapsed_s else 0.0


def _format_quantiles(distribution: Distribution) -> str:
    if not distribution.count:
        return ""
    return ", ".join(
        f"p{share * 100:g} {format_duration(distribution.quantile(share))}" for share in QUANTILES
    )


def _print_errors(errors: tuple[ErrorStatistics, ...], *, err: bool) -> None:
    for error in errors[:MAX_ERRORS]:
        such = f"such as {error.custom_id}: " if error.custom_id else ""
        text = sanitize_line(
            f"{format_count(error.count, 'line')} failed with {error.code}, {such}"
        )
        click.echo(f"{click.style(text, fg='red')}{sanitize_line(error.message)}", err=err)
        if error.hint:
            click.echo(f"  {sanitize_line(error.hint)}", err=err)
    if len(errors) > MAX_ERRORS:
        click.echo(f"And {format_count(len(errors) - MAX_ERRORS, 'other kind')}.", err=err)


def write_report(path: str, options: BatchOptions, session: Session, summary: BatchSummary) -> None:
    """Write the page about a batch that is finished. Answers in a stream leave no figures for it.

    Raises:
        BatchStorageFailed: It cannot be written.
    """
    if summary.figures is None:
        return
    page = _render_page(
        options,
        state="finished with failures" if summary.failed else "finished",
        total=summary.total,
        figures=summary.figures,
        settings=_make_settings(options, session, summary.output, summary.errors),
    )
    hint = "The answers are written. Name another place; the same command goes on."
    _write_page(path, page, hint=hint)


def write_partial_report(path: str, options: BatchOptions, session: Session) -> None:
    """Write the page about a batch that stopped: what is there so far.

    Raises:
        BatchStorageFailed: It cannot be written, or the journal cannot be read.
    """
    status = read_status(options.directory)
    published = status.published
    written = (None, None) if published is None else (published.output, published.errors)
    page = _render_page(
        options,
        state="not finished",
        total=status.total,
        figures=read_statistics(options.directory),
        settings=_make_settings(options, session, *written),
    )
    _write_page(path, page, hint="Name another place.")


def _render_page(
    options: BatchOptions,
    *,
    state: ReportState,
    total: int | None,
    figures: BatchStatistics,
    settings: tuple[tuple[str, str], ...],
) -> str:
    return render_page(
        ReportData(
            title=options.input.path,
            state=state,
            total=total,
            statistics=figures,
            settings=settings,
            made_at=time.time(),
            version=__version__,
        )
    )


def _write_page(path: str, page: str, *, hint: str) -> None:
    try:
        replace_file(resolve_link(path), page.encode())
    except OSError as error:
        raise BatchStorageFailed(
            f"the report {path} cannot be written: {error.strerror or error}", hint=hint
        ) from error


def _make_settings(
    options: BatchOptions, session: Session, output: Path | None, errors: Path | None
) -> tuple[tuple[str, str], ...]:
    read = options.input
    settings = {
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
        "Attempts a line": str(options.max_attempts),
    }
    return tuple((name, value) for name, value in settings.items() if value)
