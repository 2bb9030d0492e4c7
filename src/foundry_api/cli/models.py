"""`foundry-api models`: list, download, load, import, register and remove models."""

from __future__ import annotations

import asyncio
import difflib
import functools
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foundry_api.cli.downloads import pull, retry_after_download
from foundry_api.cli.model_import import command as import_command
from foundry_api.cli.model_view import (
    print_catalog_age,
    print_model_details,
    print_model_list,
    to_json,
)
from foundry_api.cli.options import (
    GlobalOptions,
    apply_options,
    common_options,
    complete_models,
    format_examples,
    pass_common,
)
from foundry_api.cli.output import is_terminal, print_json, print_notice, sanitize_line
from foundry_api.cli.services import find_running
from foundry_api.cli.session import Session
from foundry_api.cli.spinner import Spinner
from foundry_api.client.client import FoundryAPIClient
from foundry_api.core.connection import match_model
from foundry_api.engine.models.task import CHAT, EMBEDDINGS
from foundry_api.model_import.directory import find_imported
from foundry_api.observe.format import format_bytes, format_megabytes
from foundry_api.types.errors import (
    CatalogUnavailable,
    FoundryError,
    ModelInUse,
    ModelNotFound,
    ServiceStartFailed,
)
from foundry_api.types.local_path import absolute_path
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.core.catalog import CatalogListing
    from foundry_api.types.models import Model

__all__ = ["command", "try_model"]

NAME = click.argument("name", shell_complete=complete_models)
CATALOG = click.option(
    "--catalog", is_flag=True, help="Include models that can be downloaded; needs the network."
)
FILTERS = (
    click.option("--loaded", is_flag=True, help="Only models in memory."),
    click.option("--task", metavar="TEXT", help="Only models of this task, such as chat."),
    click.option("--device", metavar="TEXT", help="Only models for this device, such as cpu."),
    click.option("--tools", is_flag=True, help="Only models that call tools."),
)
DRAIN = click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for requests in progress.",
)

EXIT_FAILED = 1
TRIAL_ALIAS = "trial"
# A large model that was just read from a slow disk is slow at its first token.
FIRST_TOKEN_TIMEOUT_S = 300.0

EPILOG = format_examples(
    "models list",
    "models list --catalog",
    "models search phi",
    "models show phi-4-mini",
    "models pull phi-4-mini",
    "models import ./model.gguf --alias mine",
    "models register ./my-model --alias mine",
    "models remove phi-4-mini",
    "models list --json",
)


@click.group("models", epilog=EPILOG, invoke_without_command=True)
@CATALOG
@common_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions, *, catalog: bool) -> None:
    """Manage models.

    Without a command, lists the models. NAME is an alias, an id, or an id without its version; case
    does not matter.
    """
    if context.invoked_subcommand is None:
        _print_models(common, catalog=catalog)


@command.command(
    "list",
    epilog=format_examples(
        "models list",
        "models list --loaded",
        "models list --catalog --task chat --device gpu",
        "models list --catalog --json",
    ),
)
@CATALOG
@functools.partial(apply_options, FILTERS)
@common_options
@pass_common
def list_command(
    common: GlobalOptions,
    *,
    catalog: bool,
    loaded: bool,
    task: str | None,
    device: str | None,
    tools: bool,
) -> None:
    """List the models on this machine.

    Variants are grouped by alias. The catalog is cached for 10 minutes. If it cannot be reached,
    the last known one is shown.
    """
    models, listing = _list_models(common, catalog=catalog)
    found = [
        model
        for model in models
        if (model.loaded or not loaded)
        and (model.supports_tools or not tools)
        and (task or "").lower() in (model.task or "").lower()
        and (device or "").lower() in (model.device or "").lower()
    ]
    if models and not found and not common.as_json:
        click.echo("No model matches these options.")
        return
    print_model_list(common, found, listing)


@command.command(
    "search", epilog=format_examples("models search phi", "models search qwen 7b --json")
)
@click.argument("terms", nargs=-1, required=True, metavar="TERM...")
@common_options
@pass_common
def search_command(common: GlobalOptions, terms: tuple[str, ...]) -> None:
    """Find models, on this machine and in the catalog.

    Lists the models whose alias, id, publisher, task, device or licence have every term; case does
    not matter.
    """
    try:
        models, listing = _list_models(common, catalog=True)
    except CatalogUnavailable:
        models, listing = _list_models(common, catalog=False)
        print_notice("The catalog cannot be reached: only this machine is searched.")
    found = [model for model in models if _matches(model, terms)]
    if found or common.as_json:
        print_model_list(common, found, listing)
        return
    click.echo(sanitize_line(f"No model matches {' '.join(terms)}."))
    aliases = {model.alias.lower(): model.alias for model in models}
    close = difflib.get_close_matches(" ".join(terms).lower(), aliases, n=3)
    if close:
        click.echo(sanitize_line(f"Similar: {', '.join(aliases[alias] for alias in close)}"))
    if listing is not None:
        print_catalog_age(listing)


@command.command(
    "show", epilog=format_examples("models show phi-4-mini", "models show demo --json")
)
@NAME
@common_options
@pass_common
def show_command(common: GlobalOptions, name: str) -> None:
    """Show details of a model.

    Lists each of its variants, and where the files of those on this machine are.
    """
    with Session(common) as session:
        models = session.run(session.client.models.show(name), f"Looking up {name} ...")
    print_model_details(common, models)


@command.command(
    "pull", epilog=format_examples("models pull phi-4-mini", "models pull phi-4-mini --json")
)
@NAME
@common_options
@pass_common
def pull_command(common: GlobalOptions, name: str) -> None:
    """Download a model. Ctrl-C stops the download; pulling again resumes it.

    Without a terminal, progress is written to standard error: a line every 10 s, or with --json a
    JSON object every 2 s.
    """
    with Session(common) as session:
        model = pull(session, name, as_json=common.as_json)
    _print_model(common, model, f"{model.alias} is on this machine: {model.id}")


@command.command(
    "load", epilog=format_examples("up", "models load phi-4-mini", "models load demo mine")
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_models)
@click.option("-y", "--yes", is_flag=True, help="Download missing models without asking.")
@common_options
@pass_common
def load_command(common: GlobalOptions, names: tuple[str, ...], *, yes: bool) -> None:
    """Load models into the memory of a running service.

    Several models are loaded one after another.
    """
    loaded: list[Model] = []
    with Session(common) as session:
        _require_running(session)
        for name in names:
            model = retry_after_download(
                session,
                functools.partial(session.client.models.load, name),
                yes=yes,
                ask=not common.as_json,
                description=f"Loading {name} ...",
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
@click.option("--force", is_flag=True, help="Unload even if other programs use it.")
@common_options
@pass_common
def unload_command(common: GlobalOptions, name: str, drain: float, *, force: bool) -> None:
    """Unload a model from the memory of a running service.

    Fails if another program uses the model, and names that program.
    """
    with Session(common) as session:
        _require_running(session)
        model = session.run(
            session.client.models.unload(name, drain=drain, force=force),
            description=f"Unloading {name} ...",
        )
    _print_model(common, model, f"{model.alias} is no longer loaded: {model.id}")


@command.command("swap", epilog=format_examples("models swap phi-4-mini qwen2.5-0.5b"))
@click.argument("old", shell_complete=complete_models)
@click.argument("new", shell_complete=complete_models)
@DRAIN
@common_options
@pass_common
def swap_command(common: GlobalOptions, old: str, new: str, drain: float) -> None:
    """Unload the model OLD and load NEW in its place.

    If NEW cannot be loaded, OLD is loaded again.
    """
    with Session(common) as session:
        _require_running(session)
        model = session.run(
            session.client.models.swap(old, new, drain=drain),
            description=f"Replacing {old} with {new} ...",
        )
    _print_model(common, model, f"{model.alias} is loaded in place of {old}: {model.id}")


@command.command(
    "register",
    epilog=format_examples(
        "models register ./my-model --check", "models register ./my-model --alias mine"
    ),
)
@click.argument("directory", type=click.Path())
@click.option("--alias", help="Name of the model.")
@click.option("--check", is_flag=True, help="Only check the files and try to load the model.")
@common_options
@pass_common
def register_command(
    common: GlobalOptions, directory: str, alias: str | None, *, check: bool
) -> None:
    """Register a directory with an ONNX model of your own.

    The directory must contain genai_config.json, the ONNX graph with its weights, the tokenizer and
    a chat template; these are checked first. Nothing is copied or moved.

    --check registers nothing: it checks the files, then loads the model in a temporary engine and
    generates one token. The exit code is 1 if the model cannot be served.
    """
    if check:
        _check_directory(common, directory)
        return
    if alias is None:
        raise click.UsageError("Give the model a name with --alias NAME.")
    with Session(common) as session:
        model = session.run(session.client.models.register(directory, alias))
    _print_model(common, model, f"{model.alias} is registered: {model.id}")


command.add_command(import_command)


@command.command(
    "remove", epilog=format_examples("models remove phi-4-mini", "models remove -y phi-4-mini")
)
@NAME
@click.option("-y", "--yes", is_flag=True, help="Delete without asking, as without a terminal.")
@common_options
@pass_common
def remove_command(common: GlobalOptions, name: str, *, yes: bool) -> None:
    """Delete a model, or unregister one of your own.

    The files of a registered directory are kept, and those of a model that was imported with
    --output. A loaded model must be unloaded first. The model
    `demo` is part of foundry-api and cannot be removed.
    """
    with Session(common) as session:
        model, is_ours = session.run(_find_removable(session, name))
        if not is_ours:
            session.run(session.client.models.unregister(name))
            message = f"{model.alias} is no longer registered; its files are kept: {model.id}"
            _print_model(common, model, message)
            return
        is_interactive = is_terminal(sys.stdin) and is_terminal(sys.stderr)
        if is_interactive and not (yes or common.as_json):
            size = f" ({format_megabytes(model.size_mb)})" if model.size_mb else ""
            if not click.confirm(sanitize_line(f"Delete {model.id}{size}?"), err=True):
                raise click.exceptions.Exit(EXIT_FAILED)
        freed = session.run(session.client.models.remove(model.id))
    message = f"{model.alias} is deleted, which freed {format_bytes(freed)}: {model.id}"
    _print_model(common, model, message, freed_bytes=freed)


def _print_models(common: GlobalOptions, *, catalog: bool) -> None:
    print_model_list(common, *_list_models(common, catalog=catalog))


def _list_models(
    common: GlobalOptions, *, catalog: bool
) -> tuple[Sequence[Model], CatalogListing | None]:
    async def fetch(client: FoundryAPIClient) -> tuple[Sequence[Model], CatalogListing | None]:
        # Not `list(catalog=True)`, which returns the models without the age of the listing. A
        # second request for the listing takes seconds if the catalog cannot be reached.
        models = await client.models.list()
        if not catalog:
            return models, None
        listing = await client.models.catalog()
        local_ids = {model.id for model in models}
        return [*models, *(entry for entry in listing.models if entry.id not in local_ids)], listing

    with Session(common) as session:
        return session.run(fetch(session.client), description="Listing models ...")


def _matches(model: Model, terms: Sequence[str]) -> bool:
    parts = (
        model.alias,
        model.id,
        model.publisher,
        model.task,
        model.device,
        model.license,
    )
    text = " ".join(part for part in parts if part).lower()
    return all(term.lower() in text for term in terms)


async def _find_removable(session: Session, name: str) -> tuple[Model, bool]:
    """Return a model, and whether its files are deleted with it."""
    models = await session.client.models.list()
    model = match_model(name, models)
    if model is None:
        raise ModelNotFound(f"no model on this machine is named {name!r}", model=name)
    if model.catalog == "local":
        # The engine itself refuses to unregister one that is in use.
        return model, find_imported(model, models, session.settings.home) is not None
    if model.loaded:
        raise ModelInUse(
            f"{model.id} is loaded",
            hint=f"Unload it first: `foundry-api models unload {model.alias}`.",
            model=model.id,
        )
    return model, True


def _require_running(session: Session) -> None:
    # A temporary engine would lose the model when this command ends.
    if session.settings.service != "embedded":
        session.run(find_running(session.settings))


def _print_model(common: GlobalOptions, model: Model, message: str, **extra: object) -> None:
    if common.as_json:
        print_json({"model": to_json(model), **extra})
    else:
        click.echo(sanitize_line(message))


def _check_directory(common: GlobalOptions, directory: str) -> None:
    # The service of the user is not involved: the check must work while it is busy, or too old.
    from foundry_api.engine.models.validate import find_problems  # noqa: PLC0415 - for this verb alone

    try:
        path = absolute_path(directory)
    except ValueError as error:
        raise click.UsageError(f"DIRECTORY is {directory!r}: {error}.") from error
    problems, is_loaded = find_problems(path), False
    if not problems:
        try:
            failure = asyncio.run(try_model(path))
        except ServiceStartFailed as error:
            print_notice(f"The model could not be loaded for a test: {error}")
        else:
            is_loaded = failure is None
            problems = () if failure is None else (f"the engine cannot serve it: {failure}",)
    if common.as_json:
        print_json({"directory": directory, "findings": problems, "loaded": is_loaded})
    elif problems:
        click.echo(sanitize_line(f"{directory} cannot be served as a model:"))
        for problem in problems:
            click.echo(sanitize_line(f"  {problem}"))
    else:
        state = "can be served" if is_loaded else "has all its files"
        click.echo(sanitize_line(f"{directory} {state}. Register it with --alias NAME."))
    if problems:
        raise click.exceptions.Exit(EXIT_FAILED)


async def try_model(directory: Path) -> str | None:
    """Load a model and run it once in a temporary engine; return what failed, None for success."""
    with (
        Spinner(f"Loading {directory} for a test ..."),
        tempfile.TemporaryDirectory(prefix=f"{TRIAL_ALIAS}-", ignore_cleanup_errors=True) as home,
    ):
        settings = Settings(
            service="embedded", home=Path(home), max_retries=0, timeout_s=FIRST_TOKEN_TIMEOUT_S
        )
        async with FoundryAPIClient(settings=settings) as client:
            # Start the engine outside the try: a failure to start is not a fault of the model.
            await client.models.loaded()
            try:
                model = await client.models.register(directory, TRIAL_ALIAS)
                await client.models.load(TRIAL_ALIAS)
                if model.task == EMBEDDINGS:
                    await client.embed("Hello", model=model.id)
                elif model.task == CHAT:
                    await client.complete("Hello", model=model.id, max_tokens=1)
                # A transcription model is only loaded: there is no recording to try it with.
            except FoundryError as error:
                return error.message.replace(f"{TRIAL_ALIAS}:1", str(directory))
    return None
