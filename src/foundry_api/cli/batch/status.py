"""`foundry-api batch status` and `foundry-api batch cancel`: a batch seen from outside."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.batch.journal import read_status, request_cancel
from foundry_api.batch.progress import BatchProgress
from foundry_api.batch.types import get_journal_directory
from foundry_api.cli.batch.progress import engine_in_words, phase_in_words, speed_in_words
from foundry_api.cli.batch.summary import retry_advice
from foundry_api.cli.options import Common, examples, output_options, pass_common
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
    "status", epilog=examples("batch status answers.jsonl", "batch status --json answers.jsonl")
)
@click.argument("output", type=click.Path(), metavar="OUTPUT")
@output_options
@pass_common
def command(common: Common, *, output: str) -> None:
    """Tell how far a batch is, and who works on it. Nothing is changed."""
    status = read_status(get_journal_directory(output))
    if common.as_json:
        print_json(_described(status))
    else:
        print_fields(output, state_of(status), _fields(output, status))


@click.command(
    "cancel", epilog=examples("batch cancel answers.jsonl", "batch cancel answers.jsonl --now")
)
@click.argument("output", type=click.Path(), metavar="OUTPUT")
@click.option("--now", is_flag=True, help="Do not finish what is being answered.")
@output_options
@pass_common
def cancel_command(common: Common, *, output: str, now: bool) -> None:
    """Ask who works on a batch to leave.

    What is being answered is finished first. Nothing is lost: the command that ran it goes on.
    """
    asked = request_cancel(get_journal_directory(output), "stop" if now else "drain")
    if common.as_json:
        print_json({"output": output, "asked": asked, "now": now})
    elif not asked:
        click.echo(sanitize_line(f"Nobody works on {output}."))
    else:
        how = "stop at once" if now else "leave when what is being answered is finished"
        click.echo(f"Asked {format_count(asked, 'runner')} to {how}.")


def state_of(status: BatchStatus) -> str:
    """`running`, `stopped`, or `finished`."""
    if status.running:
        return "running"
    if status.published is None or not status.current:
        return "stopped"
    return "finished, but some lines failed" if status.counts.failed else "finished"


def _described(status: BatchStatus) -> dict[str, Any]:
    """As JSON."""
    return {
        "state": state_of(status).partition(",")[0],
        "directory": str(status.directory),
        "options": status.options,
        "began": status.started_at,
        "total": status.total,
        "counts": status.counts,
        "output": None if status.published is None else str(status.published.output),
        "errors": _errors(status) or None,
        "runners": [_runner_described(runner) for runner in status.runners],
    }


def _runner_described(runner: RunnerStatus) -> dict[str, Any]:
    told = msgspec.structs.asdict(runner)
    return {**told, "progress": msgspec.Raw(runner.progress) if runner.progress else None}


def _fields(output: str, status: BatchStatus) -> list[tuple[str, str]]:
    counts = status.counts
    written, read = format_int(counts.completion_tokens), format_int(counts.prompt_tokens)
    published = status.published
    return [
        ("input", status.options.input.path),
        ("lines", _lines(status)),
        ("tokens", f"{written} written, {read} read" if counts.finished else ""),
        ("begun", format_age(max(0.0, time.time() - status.started_at))),
        *(_runner(runner) for runner in status.runners if runner.alive),
        ("answers", "" if published is None else str(published.output)),
        ("failed", _errors(status)),
        ("next", _next(output, status)),
    ]


def _lines(status: BatchStatus) -> str:
    counts = status.counts
    told = format_int(counts.finished)
    if status.total is not None:
        told += f" of {format_int(status.total)} ({format_percent(counts.finished, status.total)})"
    parts = [f"{told} finished"]
    parts += [f"{format_int(counts.failed)} failed"] if counts.failed else []
    parts += [f"{format_int(counts.shared)} took a known answer"] if counts.shared else []
    return ", ".join(parts)


def _runner(runner: RunnerStatus) -> tuple[str, str]:
    parts = [f"process {runner.pid}"]
    if runner.progress:
        now = msgspec.json.decode(runner.progress, type=BatchProgress)
        parts += [phase_in_words(now), speed_in_words(now)]
        parts += [f"{format_duration(now.eta_s)} left"] if now.eta_s else []
        parts += [engine_in_words(now.engine)] if now.phase == "running" else []
    if runner.cancel is not None:
        parts.append("was asked to leave")
    return f"runner {runner.number}", ", ".join(filter(None, parts))


def _errors(status: BatchStatus) -> str:
    published = status.published
    return "" if published is None or published.errors is None else str(published.errors)


def _next(output: str, status: BatchStatus) -> str:
    state = state_of(status)
    if state == "running":
        return f"foundry-api batch cancel {output}"
    if state == "stopped":
        return "the command that ran it goes on"
    return retry_advice(output, status.failures)
