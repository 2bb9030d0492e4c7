"""`foundry-api models import`: convert a model of Hugging Face or a GGUF file."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from foundry_api.cli.model_view import to_json
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, print_notice, sanitize_line
from foundry_api.cli.session import Session, make_settings
from foundry_api.model_import.builder import Builder, describe_size
from foundry_api.model_import.directory import read_record
from foundry_api.model_import.importer import prepare_import, set_up_builder
from foundry_api.model_import.types import PRECISIONS
from foundry_api.observe.format import format_megabytes, format_percent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from foundry_api.model_import.directory import ImportRecord
    from foundry_api.model_import.types import ImportProgress, Precision
    from foundry_api.types.models import Model

__all__ = ["command"]

LINE_EVERY_S = 10.0
JSON_EVERY_S = 2.0
COMPLETE = 100.0

STEPS = {
    "setup": "installing the packages that convert models",
    "weights": "reading the weights",
    "graph": "building the model",
    "reference": "asking the source",
    "check": "comparing the answers",
}


@click.command(
    "import",
    epilog=format_examples(
        "models import --setup",
        "models import ./SmolLM2-135M-Instruct --alias smollm2",
        "models import ./model.Q8_0.gguf --alias mine --precision int8",
    ),
)
@click.argument("source", type=click.Path(), required=False)
@click.option("--alias", help="Name of the model.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="int4",
    show_default=True,
    help="Type of the weights.",
)
@click.option(
    "--output",
    type=click.Path(),
    metavar="DIR",
    help="Directory to make; it must not exist or be empty. [default: in the data directory]",
)
@click.option("--no-check", is_flag=True, help="Don't compare the answers with the source's.")
@click.option("--setup", is_flag=True, help="Install the packages that convert models.")
@click.option("-y", "--yes", is_flag=True, help="Install missing packages without asking.")
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    source: str | None,
    alias: str | None,
    precision: Precision,
    output: str | None,
    no_check: bool,
    setup: bool,
    yes: bool,
) -> None:
    """Convert a model for the engine, and register it.

    SOURCE is a directory with a Hugging Face model (safetensors), or a GGUF file. It is not
    changed. What is not supported is named before anything is made.

    The packages that convert models are installed on first use, into an environment of their own.
    Without a terminal, this needs --setup or --yes. --setup without SOURCE only installs them.

    Ctrl-C stops the import; the same command continues it. Without a terminal, progress is written
    to standard error: a line every 10 s, or with --json a JSON object every 2 s.
    """
    if source is None:
        if not setup:
            raise click.UsageError("Give the model to import, or --setup.")
        _set_up(common)
        return
    if alias is None:
        raise click.UsageError("Give the model a name with --alias NAME.")
    settings = make_settings(common)
    # Before the question, so that nobody installs gigabytes for a model that cannot be imported.
    request = prepare_import(source, alias, precision=precision, output=output, home=settings.home)
    if not (setup or yes or request.builder.is_ready()):
        setup = _confirm_setup(ask=not common.as_json)
    with Session(common) as session, _show_progress(common, f"The import of {source}") as report:
        model = session.run(
            session.client.models.import_model(
                source,
                alias,
                precision=precision,
                output=output,
                check=not no_check,
                setup=setup or yes,
                progress=report,
            )
        )
    _print_result(common, model, read_record(Path(model.path or request.output)))


def _set_up(common: GlobalOptions) -> None:
    builder = Builder.from_home(make_settings(common).home)
    with _show_progress(common, "The installation") as report:
        asyncio.run(set_up_builder(builder, report))
    if common.as_json:
        print_json({"builder": str(builder.directory), "ready": True})
    else:
        click.echo(sanitize_line(f"Models can be imported: {builder.directory} has the packages."))


def _confirm_setup(*, ask: bool) -> bool:
    if not (ask and is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return False  # the import then fails, and says how to install them
    print_notice(f"The packages that convert models are missing: {describe_size()}.")
    if not click.confirm("Install them now?", err=True):
        raise click.exceptions.Exit(1)
    return True


def _print_result(common: GlobalOptions, model: Model, record: ImportRecord | None) -> None:
    if common.as_json:
        print_json({"model": to_json(model), "import": record})
        return
    size = f", {format_megabytes(model.size_mb)}" if model.size_mb else ""
    kind = f"{record.precision}{size}" if record else size
    click.echo(sanitize_line(f"{model.alias} is imported and registered: {model.id} ({kind})"))
    if record and record.agreement:
        total = record.agreement[0][1]
        figures = ", ".join(str(same) for same, _ in record.agreement)
        click.echo(
            f"Checked: of the first {total} tokens of {len(record.agreement)} answers, {figures} "
            "are those of the source."
        )


@contextlib.contextmanager
def _show_progress(
    common: GlobalOptions, subject: str
) -> Generator[Callable[[ImportProgress], object]]:
    """Show a bar on a terminal, else lines; after Ctrl-C say how to continue."""
    last: ImportProgress | None = None
    show = _show_bar() if is_terminal(sys.stderr) else _print_lines(as_json=common.as_json)
    stopped: KeyboardInterrupt | None = None
    with show as on_progress:

        def report(progress: ImportProgress) -> None:
            nonlocal last
            last = progress
            on_progress(progress)

        try:
            yield report
        except KeyboardInterrupt as error:
            stopped = error
    if stopped is None:
        return
    # Printed here, because the bar would overwrite it.
    step = f" at: {STEPS[last.step]}" if last else ""
    print_notice(sanitize_line(f"{subject} was stopped{step}. The same command continues it."))
    raise stopped


@contextlib.contextmanager
def _show_bar() -> Generator[Callable[[ImportProgress], object]]:
    from rich.console import Console  # noqa: PLC0415 - only terminals have a progress bar
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - as above

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, state="")

        def update(progress: ImportProgress) -> None:
            percent = progress.percent
            bar.update(
                task,
                description=f"{progress.number}/{progress.total} {STEPS[progress.step]}",
                total=None if percent is None else COMPLETE,
                completed=percent or 0.0,
                state=sanitize_line(_describe(progress)),
            )

        yield update


@contextlib.contextmanager
def _print_lines(*, as_json: bool) -> Generator[Callable[[ImportProgress], object]]:
    every_s = JSON_EVERY_S if as_json else LINE_EVERY_S
    step, due_at = "", 0.0

    def report(progress: ImportProgress) -> None:
        nonlocal step, due_at
        if progress.step == step and time.monotonic() < due_at:
            return
        step, due_at = progress.step, time.monotonic() + every_s
        if as_json:
            line = msgspec.json.encode({"progress": msgspec.structs.asdict(progress)}).decode()
        else:
            state = _describe(progress)
            line = f"{progress.number}/{progress.total} {STEPS[progress.step]}" + (
                f": {sanitize_line(state)}" if state else ""
            )
        click.echo(line, err=True)

    yield report


def _describe(progress: ImportProgress) -> str:
    percent = [] if progress.percent is None else [format_percent(progress.percent)]
    return ", ".join([*percent, *([progress.detail] if progress.detail else [])])
