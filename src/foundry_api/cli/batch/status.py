"""`foundry-api batch status` and `foundry-api batch cancel`: a batch seen from outside."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.batch.journal import read_status, request_cancel
from foundry_api.batch.progress import BatchProgress
from foundry_api.batch.types import get_journal_directory
from foundry_api.cli.batch.progress import describe_phase, format_engine, format_speed
from foundry_api.cli.batch.summary import make_retry_advice
from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import print_fields, print_json, sanitize_line
from foundry_api.observe.format import (
    format_age,
    format_count,
    format_duration,
    format_int,
    format_percent,
)

if TYPE_CHECKING:
    from foundry_api.batch.journal import BatchStatus, RunnerStatus

__all__ = ["cancel_command", "command"]


@click.command(
    "status",
    epilog=format_examples("batch status answers.jsonl", "batch status --json answers.jsonl"),
)
@click.argument("output", type=click.Path(), metavar="OUTPUT")
@output_options
@pass_common
def command(common: GlobalOptions, *, output: str) -> None:
    """Tell how far a batch is, and who works on it. Nothing is changed."""
    status = read_status(get_journal_directory(output))
    if common.as_json:
        print_json(_to_json(status))
    else:
        print_fields(output, get_state(status), _make_fields(output, status))


@click.command(
    "cancel",
    epilog=format_examples("batch cancel answers.jsonl", "batch cancel answers.jsonl --now"),
)
@click.argument("output", type=click.Path(), metavar="OUTPUT")
@click.option("--now", is_flag=True, help="Do not finish what is being answered.")
@output_options
@pass_common
def cancel_command(common: GlobalOptions, *, output: str, now: bool) -> None:
    """Ask who works on a batch to leave.

    What is being answered is finished first. Nothing is lost: the command that ran it goes on.
    """
    requested = request_cancel(get_journal_directory(output), "stop" if now else "drain")
    if common.as_json:
        print_json({"output": output, "asked": requested, "now": now})
    elif not requested:
        click.echo(sanitize_line(f"Nobody works on {output}."))
    else:
        how = "stop at once" if now else "leave when what is being answered is finished"
        click.echo(f"Asked {format_count(requested, 'runner')} to {how}.")


def get_state(status: BatchStatus) -> str:
    """`running`, `stopped`, or `finished`."""
    if status.running:
        return "running"
    if status.published is None or not status.current:
        return "stopped"
    return "finished, but some lines failed" if status.counts.failed else "finished"


def _to_json(status: BatchStatus) -> dict[str, Any]:
    """As JSON."""
    return {
        "state": get_state(status).partition(",")[0],
        "directory": str(status.directory),
        "options": status.options,
        "began": status.started_at,
        "total": status.total,
        "counts": status.counts,
        "output": None if status.published is None else str(status.published.output),
        "errors": _format_errors(status) or None,
        "runners": [_runner_to_json(runner) for runner in status.runners],
    }


def _runner_to_json(runner: RunnerStatus) -> dict[str, Any]:
    members = msgspec.structs.asdict(runner)
    return {**members, "progress": msgspec.Raw(runner.progress) if runner.progress else None}


def _make_fields(output: str, status: BatchStatus) -> list[tuple[str, str]]:
    counts = status.counts
    written, read = format_int(counts.completion_tokens), format_int(counts.prompt_tokens)
    published = status.published
    return [
        ("input", status.options.input.path),
        ("lines", _format_lines(status)),
        ("tokens", f"{written} written, {read} read" if counts.finished else ""),
        ("begun", format_age(max(0.0, time.time() - status.started_at))),
        *(_format_runner(runner) for runner in status.runners if runner.alive),
        ("answers", "" if published is None else str(published.output)),
        ("failed", _format_errors(status)),
        ("next", _format_next_step(output, status)),
    ]


def _format_lines(status: BatchStatus) -> str:
    counts = status.counts
    text = format_int(counts.finished)
    if status.total is not None:
        text += f" of {format_int(status.total)} ({format_percent(counts.finished, status.total)})"
    parts = [f"{text} finished"]
    parts += [f"{format_int(counts.failed)} failed"] if counts.failed else []
    parts += [f"{format_int(counts.shared)} took a known answer"] if counts.shared else []
    return ", ".join(parts)


def _format_runner(runner: RunnerStatus) -> tuple[str, str]:
    parts = [f"process {runner.pid}"]
    if runner.progress:
        progress = msgspec.json.decode(runner.progress, type=BatchProgress)
        parts += [describe_phase(progress), format_speed(progress)]
        parts += [f"{format_duration(progress.eta_s)} left"] if progress.eta_s else []
        parts += [format_engine(progress.engine)] if progress.phase == "running" else []
    if runner.cancel is not None:
        parts.append("was asked to leave")
    return f"runner {runner.number}", ", ".join(filter(None, parts))


def _format_errors(status: BatchStatus) -> str:
    published = status.published
    return "" if published is None or published.errors is None else str(published.errors)


def _format_next_step(output: str, status: BatchStatus) -> str:
    state = get_state(status)
    if state == "running":
        return f"foundry-api batch cancel {output}"
    if state == "stopped":
        return "the command that ran it goes on"
    return make_retry_advice(output, status.failures)
