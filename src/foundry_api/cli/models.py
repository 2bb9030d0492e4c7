"""`foundry-api models`: what models there are, and getting them here and away."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foundry_api.cli.downloads import pull, retry_after_download
from foundry_api.cli.model_view import list_models, show_models, to_json
from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, sanitize, sanitize_line
from foundry_api.cli.services import find_running
from foundry_api.cli.session import Session
from foundry_api.cli.spinner import Spinner
from foundry_api.client.client import FoundryAPIClient
from foundry_api.core.connection import match_model
from foundry_api.engine.models.task import CHAT, EMBEDDINGS
from foundry_api.observe.format import format_bytes, format_megabytes
from foundry_api.types.errors import FoundryError, ModelInUse, ModelNotFound, ServiceStartFailed
from foundry_api.types.local_path import absolute_path
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.core.catalog import CatalogListing
    from foundry_api.types.models import Model

__all__ = ["command", "try_model"]


NAME = click.argument("name")
DRAIN = click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long answers under way may take to end.",
)
EXIT_NOT_SERVABLE = 1
CATALOG = click.option(
    "--catalog", is_flag=True, help="Also those that can be downloaded; needs the network."
)

EPILOG = format_examples(
    "models list",
    "models list --catalog",
    "models show phi-4-mini",
    "models pull phi-4-mini",
    "models add ./my-model --alias mine",
    "models rm phi-4-mini",
    "models list --json",
)


@click.group("models", epilog=EPILOG, invoke_without_command=True)
@CATALOG
@common_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions, *, catalog: bool) -> None:
    """See, get and remove models.

    Without a command, list them. A NAME is an alias, an id, or an id without its version, in any
    case.
    """
    if context.invoked_subcommand is None:
        print_models(common, catalog=catalog)


@command.command("list", epilog=format_examples("models list", "models list --catalog --json"))
@CATALOG
@common_options
@pass_common
def list_command(common: GlobalOptions, *, catalog: bool) -> None:
    """List the models on this machine.

    Variants of one alias stand together. What was asked of the catalog in the last 10 minutes is
    not asked again, and a catalog that cannot be reached is shown as it was.
    """
    print_models(common, catalog=catalog)


@command.command(
    "show", epilog=format_examples("models show phi-4-mini", "models show demo --json")
)
@NAME
@common_options
@pass_common
def show_command(common: GlobalOptions, name: str) -> None:
    """Tell all that is known of a model.

    That is each of its variants, and for those on this machine where their files are.
    """
    with Session(common) as session:
        models = session.run(session.client.models.show(name), f"Asking for {name} ...")
    show_models(common, models)


@command.command(
    "pull", epilog=format_examples("models pull phi-4-mini", "models pull phi-4-mini --json")
)
@NAME
@common_options
@pass_common
def pull_command(common: GlobalOptions, name: str) -> None:
    """Download a model. Ctrl-C stops it; pulling again goes on where it stopped.

    Where nobody looks, progress goes to standard error: a line every 10 s, with --json one of JSON
    every 2 s.
    """
    with Session(common) as session:
        model = pull(session, name, as_json=common.as_json)
    _print_model(common, model, f"{model.alias} is on this machine: {model.id}")


@command.command(
    "load", epilog=format_examples("up", "models load phi-4-mini", "models load demo mine")
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Download them without asking.")
@common_options
@pass_common
def load_command(common: GlobalOptions, names: tuple[str, ...], *, yes: bool) -> None:
    """Load models into the memory of a running service, one after the other."""
    loaded: list[Model] = []
    with Session(common) as session:
        _require_running(session)
        for name in names:
            model = retry_after_download(
                session,
                partial(session.client.models.load, name),
                yes=yes,
                ask=not common.as_json,
                waiting=f"Loading {name} ...",
            )
            loaded.append(model)
            if not common.as_json:
                click.echo(sanitize_line(f"{model.alias} is loaded: {model.id}"))
    if common.as_json:
        documents = [to_json(model) for model in loaded]
        print_json({"model": documents[0]} if len(names) == 1 else {"models": documents})


@command.command(
    "unload", epilog=format_examples("models unload phi-4-mini", "models unload mine --force")
)
@NAME
@DRAIN
@click.option("--force", is_flag=True, help="Heed no other program that uses it.")
@common_options
@pass_common
def unload_command(common: GlobalOptions, name: str, drain: float, *, force: bool) -> None:
    """Take a model out of a running service's memory.

    Fails while another program uses it, and says which one.
    """
    with Session(common) as session:
        _require_running(session)
        model = session.run(
            session.client.models.unload(name, drain=drain, force=force),
            description=f"Unloading {name} ...",
        )
    _print_model(common, model, f"{model.alias} is no longer loaded: {model.id}")


@command.command("swap", epilog=format_examples("models swap phi-4-mini qwen2.5-0.5b"))
@click.argument("old")
@click.argument("new")
@DRAIN
@common_options
@pass_common
def swap_command(common: GlobalOptions, old: str, new: str, drain: float) -> None:
    """Unload the model OLD, and load NEW in its place.

    If NEW can't be loaded, OLD is loaded again.
    """
    with Session(common) as session:
        _require_running(session)
        model = session.run(
            session.client.models.swap(old, new, drain=drain),
            description=f"Loading {new} in the place of {old} ...",
        )
    _print_model(common, model, f"{model.alias} is loaded in the place of {old}: {model.id}")


@command.command(
    "add",
    epilog=format_examples("models add ./my-model --check", "models add ./my-model --alias mine"),
)
@click.argument("directory", type=click.Path())
@click.option("--alias", help="The name to call it by.")
@click.option("--check", is_flag=True, help="Only check it, and load it once on trial.")
@common_options
@pass_common
def add_command(common: GlobalOptions, directory: str, alias: str | None, *, check: bool) -> None:
    """Serve a directory with an ONNX model of your own.

    It must hold genai_config.json, the ONNX graph with its weights, the tokenizer and a chat
    template, all of which are looked at first. It stays where it is.

    --check adds nothing: it looks at the files, then loads the model once and has it answer, in a
    temporary engine. Its exit code is 1 for a directory that cannot be served.
    """
    if check:
        _check_directory(common, directory)
        return
    if alias is None:
        raise click.UsageError("Give it a name with --alias NAME.")
    with Session(common) as session:
        model = session.run(session.client.models.register(directory, alias))
    _print_model(common, model, f"{model.alias} is added: {model.id}")


@command.command("rm", epilog=format_examples("models rm phi-4-mini", "models rm -y phi-4-mini"))
@NAME
@click.option("-y", "--yes", is_flag=True, help="Delete it without asking.")
@common_options
@pass_common
def rm_command(common: GlobalOptions, name: str, *, yes: bool) -> None:
    """Delete a downloaded model, or forget an added one.

    The files of an added directory stay, but no program of this user can call it any more. A loaded
    model has to be unloaded first. The model `demo`, which comes with this program, always stays.
    """
    with Session(common) as session:
        model = session.run(_find_removable(session.client, name))
        if model.catalog == "local":
            session.run(session.client.models.unregister(name))
            _print_model(common, model, f"{model.alias} is forgotten; its files stay: {model.id}")
            return
        _confirm(common, model, yes=yes)
        freed = session.run(session.client.models.remove(model.id))
    sentence = f"{model.alias} is deleted, which freed {format_bytes(freed)}: {model.id}"
    _print_model(common, model, sentence, freed_bytes=freed)


def print_models(common: GlobalOptions, *, catalog: bool) -> None:
    """Print the models."""
    with Session(common) as session:
        models, listing = session.run(
            _list_models(session.client, catalog=catalog), description="Asking for the models ..."
        )
    list_models(common, models, listing)


async def _list_models(
    client: FoundryAPIClient, *, catalog: bool
) -> tuple[Sequence[Model], CatalogListing | None]:
    models = await client.models.list()
    if not catalog:
        return models, None
    listing = await client.models.catalog()
    known = {model.id for model in models}
    return [
        *models,
        *(listed_model for listed_model in listing.models if listed_model.id not in known),
    ], listing


def _check_directory(common: GlobalOptions, directory: str) -> None:
    """Tell what keeps a directory from being served; the user's own service is not asked."""
    from foundry_api.engine.models.validate import find_problems  # noqa: PLC0415 - for this verb alone

    try:
        path = absolute_path(directory)
    except ValueError as error:
        raise click.UsageError(f"DIRECTORY is {directory!r}: {error}.") from error
    problems, is_tried = find_problems(path), False
    if not problems:
        problems, is_tried = _try(path)
    if common.as_json:
        print_json(
            {"directory": directory, "findings": problems, "loaded": is_tried and not problems}
        )
    elif problems:
        click.echo(sanitize_line(f"{directory} cannot be served as a model:"))
        for finding in problems:
            click.echo(sanitize_line(f"  {finding}"))
    elif is_tried:
        click.echo(sanitize_line(f"{directory} can be served. Add it with --alias NAME."))
    else:
        click.echo(sanitize_line(f"{directory} has all its files. Add it with --alias NAME."))
    if problems:
        raise click.exceptions.Exit(EXIT_NOT_SERVABLE)


def _try(directory: Path) -> tuple[tuple[str, ...], bool]:
    """Load a model on trial.

    Returns:
        What is wrong with it, and whether there was an engine to try it in.
    """

    async def trial() -> str | None:
        with Spinner(f"Loading {directory} on trial ..."):
            return await try_model(directory)

    try:
        failure = asyncio.run(trial())
    except ServiceStartFailed as error:
        click.echo(sanitize(f"It could not be loaded on trial: {error}"), err=True)
        return (), False
    return ((f"the engine cannot serve it: {failure}",) if failure else ()), True


def _confirm(common: GlobalOptions, model: Model, *, yes: bool) -> None:
    """Ask before files are deleted, where there is somebody to ask.

    Raises:
        Abort: The answer was no.
    """
    if yes or common.as_json or not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return
    size = f" ({format_megabytes(model.size_mb)})" if model.size_mb else ""
    if not click.confirm(sanitize_line(f"Delete {model.id}{size}?"), err=True):
        raise click.exceptions.Exit(EXIT_NOT_SERVABLE)


def _require_running(session: Session) -> None:
    """Refuse what makes no sense in an engine that leaves with this command.

    Raises:
        ServiceNotRunning: No service is running.
    """
    if session.settings.service != "embedded":
        session.run(find_running(session.settings))


async def _find_removable(client: FoundryAPIClient, name: str) -> Model:
    model = match_model(name, await client.models.list())
    if model is None:
        raise ModelNotFound(f"no model on this machine is named {name!r}", model=name)
    if model.loaded and model.catalog != "local":  # of those, the engine knows more
        raise ModelInUse(
            f"{model.id} is loaded",
            hint=f"Unload it first: `foundry-api models unload {model.alias}`.",
            model=model.id,
        )
    return model


def _print_model(common: GlobalOptions, model: Model, message: str, **extra: object) -> None:
    if common.as_json:
        print_json({"model": to_json(model), **extra})
    else:
        click.echo(sanitize_line(message))


TRIAL_ALIAS = "trial"
FIRST_TOKEN_TIMEOUT_S = 300.0
"""A large model that was just read from a slow disk takes its time."""


async def try_model(directory: Path) -> str | None:
    """Load a model and have it answer once, in a temporary engine that nothing else uses.

    Args:
        directory: The model's files; they are only read.

    Returns:
        What keeps the engine from serving it, without a full stop; None if nothing does.

    Raises:
        ServiceStartFailed: There is no engine on this machine to try it in.
    """
    with tempfile.TemporaryDirectory(prefix=f"{TRIAL_ALIAS}-", ignore_cleanup_errors=True) as home:
        settings = Settings(
            service="embedded", home=Path(home), max_retries=0, timeout_s=FIRST_TOKEN_TIMEOUT_S
        )
        async with FoundryAPIClient(settings=settings) as client:
            await client.models.loaded()  # a failure to start is not the model's
            try:
                model = await client.models.register(directory, TRIAL_ALIAS)
                await client.models.load(TRIAL_ALIAS)
                await _try_call(client, model)
            except FoundryError as error:
                return error.message.replace(f"{TRIAL_ALIAS}:1", str(directory))
    return None


async def _try_call(client: FoundryAPIClient, model: Model) -> None:
    """Make the cheapest call of what a model is for; a recording to transcribe is not at hand."""
    if model.task == EMBEDDINGS:
        await client.embed("Hello", model=model.id)
    elif model.task == CHAT:
        await client.complete("Hello", model=model.id, max_tokens=1)
