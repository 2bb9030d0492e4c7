"""`foundry-api batch status` and `foundry-api batch cancel`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.batch.journal import read_status, request_cancel
from foundry_api.batch.progress import BatchProgress
from foundry_api.batch.types import JOURNAL_SUFFIX, get_journal_directory
from foundry_api.cli.batch.progress import describe_phase, format_engine, format_speed
from foundry_api.cli.batch.summary import format_tokens, make_retry_advice
from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import (
    print_fields,
    print_json,
    print_notice,
    print_table,
    sanitize_line,
)
from foundry_api.observe.format import (
    format_age,
    format_count,
    format_duration,
    format_int,
    format_percent,
)
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from foundry_api.batch.journal import BatchStatus, RunnerStatus

__all__ = ["cancel_command", "command", "list_command"]


@click.command(
    "status",
    epilog=format_examples("batch status answers.jsonl", "batch status --json answers.jsonl"),
)
@click.argument("output", type=click.Path(), metavar="OUTPUT")
@output_options
@pass_common
def command(common: GlobalOptions, *, output: str) -> None:
    """Show the progress of a batch and the processes that run it."""
    status = read_status(get_journal_directory(output))
    if common.as_json:
        print_json(_to_json(status))
    else:
        print_fields(output, get_state(status), _make_fields(output, status))


@click.command("list", epilog=format_examples("batch list", "batch list answers/ --json"))
@click.argument("directory", type=click.Path(path_type=Path), default=".")
@output_options
@pass_common
def list_command(common: GlobalOptions, *, directory: Path) -> None:
    """List the batches whose output is in a directory, the newest first."""
    try:
        journals = [path for path in directory.iterdir() if path.name.endswith(JOURNAL_SUFFIX)]
    except OSError as error:
        raise click.UsageError(f"{directory} cannot be read: {error.strerror}.") from error
    found: list[tuple[str, BatchStatus]] = []
    for path in journals:
        output = str(path.with_name(path.name.removesuffix(JOURNAL_SUFFIX)))
        try:
            found.append((output, read_status(path)))
        except FoundryError as error:  # another directory of that name, or a damaged one
            print_notice(f"{sanitize_line(str(path))} is skipped: {sanitize_line(error.message)}.")
    found.sort(key=lambda item: item[1].started_at, reverse=True)
    if common.as_json:
        print_json({"batches": [{"output": name, **_to_json(status)} for name, status in found]})
    elif not found:
        click.echo(sanitize_line(f"There are no batches in {directory}."))
    else:
        print_table(("OUTPUT", "STATE", "FINISHED", "FAILED", "STARTED"), map(_make_row, found))


def _make_row(item: tuple[str, BatchStatus]) -> tuple[str, ...]:
    output, status = item
    total = "" if status.total is None else f" of {format_int(status.total)}"
    return (
        output,
        get_state(status).partition(",")[0],
        f"{format_int(status.counts.finished)}{total}",
        format_int(status.counts.failed),
        format_age(max(0.0, time.time() - status.started_at)),
    )


@click.command(
    "cancel",
    epilog=format_examples("batch cancel answers.jsonl", "batch cancel answers.jsonl --now"),
)
@click.argument("output", type=click.Path(), metavar="OUTPUT")
@click.option("--now", is_flag=True, help="Abort requests in progress.")
@output_options
@pass_common
def cancel_command(common: GlobalOptions, *, output: str, now: bool) -> None:
    """Stop a batch.

    Requests in progress are finished first. Run the command that started the batch again to resume.
    """
    requested = request_cancel(get_journal_directory(output), "stop" if now else "drain")
    if common.as_json:
        print_json({"output": output, "requested": requested, "now": now})
    elif not requested:
        click.echo(sanitize_line(f"No process is running the batch of {output}."))
    else:
        how = "at once" if now else "after the requests in progress"
        click.echo(f"Requested {format_count(requested, 'runner')} to stop {how}.")


def get_state(status: BatchStatus) -> str:
    if status.running:
        return "running"
    if status.published is None or not status.current:
        return "stopped"
    return "finished, but some lines failed" if status.counts.failed else "finished"


def _to_json(status: BatchStatus) -> dict[str, Any]:
    return {
        "state": get_state(status).partition(",")[0],
        "directory": str(status.directory),
        "options": status.options,
        "started": status.started_at,
        "total": status.total,
        "counts": status.counts,
        "output": None if status.published is None else str(status.published.output),
        "errors": _format_errors(status) or None,
        "runners": [
            {
                **msgspec.structs.asdict(runner),
                "progress": msgspec.Raw(runner.progress) if runner.progress else None,
            }
            for runner in status.runners
        ],
    }


def _make_fields(output: str, status: BatchStatus) -> list[tuple[str, str]]:
    counts = status.counts
    tokens = format_tokens(counts.prompt_tokens, counts.completion_tokens)
    published = status.published
    match get_state(status):
        case "running":
            next_step = f"foundry-api batch cancel {output}"
        case "stopped":
            next_step = "run the same command again to resume"
        case _:
            next_step = make_retry_advice(output, status.failures)
    return [
        ("input", status.options.input.path),
        ("lines", _format_lines(status)),
        ("tokens", tokens if counts.finished else ""),
        ("started", format_age(max(0.0, time.time() - status.started_at))),
        *(_format_runner(runner) for runner in status.runners if runner.alive),
        ("answers", "" if published is None else str(published.output)),
        ("failed", _format_errors(status)),
        ("next step", next_step),
    ]


def _format_lines(status: BatchStatus) -> str:
    counts = status.counts
    text = format_int(counts.finished)
    if status.total is not None:
        text += f" of {format_int(status.total)} ({format_percent(counts.finished, status.total)})"
    parts = [f"{text} finished"]
    parts += [f"{format_int(counts.failed)} failed"] if counts.failed else []
    parts += [f"{format_int(counts.shared)} reused"] if counts.shared else []
    return ", ".join(parts)


def _format_runner(runner: RunnerStatus) -> tuple[str, str]:
    parts = [f"process {runner.pid}"]
    if runner.progress:
        progress = msgspec.json.decode(runner.progress, type=BatchProgress)
        parts += [describe_phase(progress), format_speed(progress)]
        parts += [f"{format_duration(progress.eta_s)} left"] if progress.eta_s else []
        parts += [format_engine(progress.engine)] if progress.phase == "running" else []
    if runner.cancel is not None:
        parts.append("is stopping")
    return f"runner {runner.number}", ", ".join(filter(None, parts))


def _format_errors(status: BatchStatus) -> str:
    published = status.published
    return "" if published is None or published.errors is None else str(published.errors)
