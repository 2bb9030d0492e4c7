"""The result of a batch: a summary as text or JSON, and the HTML report."""

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

__all__ = [
    "format_tokens",
    "make_retry_advice",
    "print_summary",
    "to_json",
    "write_partial_report",
    "write_report",
]

QUANTILES = (0.5, 0.9, 0.99)
WIDTH = 12
MAX_ERRORS = 5


def print_summary(options: BatchOptions, summary: BatchSummary) -> None:
    """Print a summary; to standard error if standard output has the answers."""
    err = options.to_stream
    state, colour = "finished", STATE_COLOURS["healthy"]
    if summary.failed:
        state, colour = "finished, but some lines failed", STATE_COLOURS["degraded"]
    elif not summary.total:
        message = f"finished, but {options.input.path} has no lines"
        state, colour = sanitize_line(message), STATE_COLOURS["degraded"]
    click.secho(state, fg=colour, bold=True, err=err)
    for name, message in _make_fields(options, summary):
        if message:
            click.echo(f"  {name.ljust(WIDTH)}{sanitize_line(message)}", err=err)
    if summary.statistics is not None and summary.statistics.errors:
        _print_errors(summary.statistics.errors, err=err)
    if summary.statistics is not None and not err:
        message = make_retry_advice(
            options.output, {error.code: error.count for error in summary.statistics.errors}
        )
        if message:
            click.echo(sanitize_line(message))


def make_retry_advice(output: str, failures: Mapping[str, int]) -> str:
    """Suggest what to do about failed lines, from the number of failures by error type."""
    total = sum(failures.values())
    permanent = sum(count for code, count in failures.items() if is_permanent_failure(code))
    if not total:
        return ""
    if permanent == total:
        return "They would fail again: correct them in a new file, and run that."
    message = f"Retry them with: foundry-api batch retry {shlex.quote(output)}"
    if permanent:
        message += (
            f" ({format_int(permanent)} of them would fail again: correct those in a new file)"
        )
    return message


def to_json(options: BatchOptions, summary: BatchSummary) -> dict[str, Any]:
    statistics = summary.statistics
    document: dict[str, Any] = {
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
    }
    if statistics is None:
        return document
    return document | {  # of all runs of the batch, not only of this one
        "prompt_tokens": statistics.prompt_tokens,
        "completion_tokens": statistics.completion_tokens,
        "all_runs_s": statistics.elapsed_s,
        "latency_s": _distribution_to_json(statistics.latency),
        "time_to_first_token_s": _distribution_to_json(statistics.time_to_first_token),
        "failures": statistics.errors,
        "models": statistics.models,
    }


def _distribution_to_json(distribution: Distribution) -> dict[str, float] | None:
    if not distribution.count:
        return None
    return {f"p{share * 100:g}": distribution.quantile(share) for share in QUANTILES}


def _make_fields(options: BatchOptions, summary: BatchSummary) -> list[tuple[str, str]]:
    statistics = summary.statistics
    time_text = format_duration(summary.elapsed_s)
    if summary.done + summary.failed != summary.resumed:  # this run finished lines
        lines_per_s = format_rate(_get_lines_per_s(summary))
        tokens_per_s = format_rate(_get_tokens_per_s(summary))
        time_text += f", {lines_per_s} lines/s, {tokens_per_s} tokens/s"
    fields = [("lines", _format_lines(summary)), ("time", time_text)]
    if statistics is not None:
        fields += [
            ("tokens", format_tokens(statistics.prompt_tokens, statistics.completion_tokens)),
            ("latency", _format_quantiles(statistics.latency)),
            ("first token", _format_quantiles(statistics.time_to_first_token)),
        ]
    return [
        *fields,
        ("answers", "" if summary.output is None else str(summary.output)),
        ("failed", "" if summary.errors is None else str(summary.errors)),
        ("report", options.report or ""),
    ]


def format_tokens(prompt_tokens: int, completion_tokens: int) -> str:
    return f"{format_int(prompt_tokens)} in prompts, {format_int(completion_tokens)} in answers"


def _format_lines(summary: BatchSummary) -> str:
    parts = [f"{format_count(summary.total, 'line')}: {format_int(summary.done)} succeeded"]
    if summary.failed:
        parts.append(f"{format_int(summary.failed)} failed")
    if summary.shared:
        parts.append(f"{format_int(summary.shared)} reused")
    if summary.resumed:
        parts.append(f"{format_int(summary.resumed)} finished earlier")
    return ", ".join(parts)


# Rates of this run: the time between runs must not count.
def _get_lines_per_s(summary: BatchSummary) -> float:
    finished = summary.done + summary.failed - summary.resumed
    return finished / summary.elapsed_s if summary.elapsed_s else 0.0


def _get_tokens_per_s(summary: BatchSummary) -> float:
    return summary.tokens / summary.elapsed_s if summary.elapsed_s else 0.0


def _format_quantiles(distribution: Distribution) -> str:
    if not distribution.count:
        return ""
    return ", ".join(
        f"p{share * 100:g} {format_duration(distribution.quantile(share))}" for share in QUANTILES
    )


def _print_errors(errors: tuple[ErrorStatistics, ...], *, err: bool) -> None:
    for error in errors[:MAX_ERRORS]:
        example = f"such as {error.custom_id}: " if error.custom_id else ""
        text = sanitize_line(
            f"{format_count(error.count, 'line')} failed with {error.code}, {example}"
        )
        click.echo(f"{click.style(text, fg='red')}{sanitize_line(error.message)}", err=err)
        if error.hint:
            click.echo(f"  {sanitize_line(error.hint)}", err=err)
    if len(errors) > MAX_ERRORS:
        click.echo(f"And {format_count(len(errors) - MAX_ERRORS, 'other error type')}.", err=err)


def write_report(path: str, options: BatchOptions, session: Session, summary: BatchSummary) -> None:
    """Write the report of a finished batch."""
    if summary.statistics is None:  # answers on standard output leave no journal to read them from
        return
    page = _render_page(
        options,
        state="finished with failures" if summary.failed else "finished",
        total=summary.total,
        statistics=summary.statistics,
        settings=_make_settings(options, session, summary.output, summary.errors),
    )
    hint = "The answers are written. Run the same command with another --report."
    _write_page(path, page, hint=hint)


def write_partial_report(path: str, options: BatchOptions, session: Session) -> None:
    """Write the report of a batch that stopped, with its results so far."""
    status = read_status(options.directory)
    published = status.published
    written = (None, None) if published is None else (published.output, published.errors)
    page = _render_page(
        options,
        state="not finished",
        total=status.total,
        statistics=read_statistics(options.directory),
        settings=_make_settings(options, session, *written),
    )
    _write_page(path, page, hint="Give another file with --report.")


def _render_page(
    options: BatchOptions,
    *,
    state: ReportState,
    total: int | None,
    statistics: BatchStatistics,
    settings: tuple[tuple[str, str], ...],
) -> str:
    return render_page(
        ReportData(
            title=options.input.path,
            state=state,
            total=total,
            statistics=statistics,
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
    batch_input = options.input
    settings = {
        "Input": batch_input.path,
        "Answers": str(output or ""),
        "Failed lines": str(errors or ""),
        "Model of lines without one": batch_input.model or session.settings.model,
        "Parameters": ", ".join(f"{name}={value}" for name, value in batch_input.members.items()),
        "Template": batch_input.template or "",
        "System": batch_input.system or "",
        "Services": ", ".join(service.name for service in session.client.services),
        "Keep the order of the input": "yes" if options.ordered else "no",
        "Run identical lines once": "yes" if options.dedupe else "no",
        "Attempts per line": str(options.max_attempts),
    }
    return tuple((name, value) for name, value in settings.items() if value)
