"""`foundry-api models`: what models there are, and getting them here and away."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.downloads import pull, run_with_download
from foundry_api.cli.options import Common, common_options, examples, pass_common
from foundry_api.cli.output import megabytes, print_json, print_table
from foundry_api.cli.services import find_running
from foundry_api.cli.session import Session
from foundry_api.connection import find_model
from foundry_api.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.client import FoundryAPIClient
    from foundry_api.messages import Model

__all__ = ["command"]

NAME = click.argument("name")
DRAIN = click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long answers under way may take to end.",
)
COLUMNS = ("ALIAS", "STATE", "SIZE", "DEVICE", "CONTEXT", "ID")
CATALOG = click.option(
    "--catalog", is_flag=True, help="Also those that can be downloaded; needs the network."
)

EPILOG = examples(
    "models list",
    "models list --catalog",
    "models pull phi-4-mini",
    "models add ./my-model --alias mine",
    "models list --json",
)


@click.group("models", epilog=EPILOG, invoke_without_command=True)
@CATALOG
@common_options
@pass_common
@click.pass_context
def command(context: click.Context, common: Common, *, catalog: bool) -> None:
    """See, get and remove models.

    Without a command, list them. A NAME is an alias, an id, or an id without its version, in any
    case.
    """
    if context.invoked_subcommand is None:
        show(common, catalog=catalog)


@command.command("list", epilog=examples("models list", "models list --catalog --json"))
@CATALOG
@common_options
@pass_common
def list_command(common: Common, *, catalog: bool) -> None:
    """List the models on this machine."""
    show(common, catalog=catalog)


@command.command("pull", epilog=examples("models pull phi-4-mini"))
@NAME
@common_options
@pass_common
def pull_command(common: Common, name: str) -> None:
    """Download a model. Ctrl-C stops it; pulling again goes on."""
    with Session(common) as session:
        model = pull(session, name)
    _tell(common, model, f"{model.alias} is on this machine: {model.id}")


@command.command("load", epilog=examples("up", "models load phi-4-mini", "models load demo mine"))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Download them without asking.")
@common_options
@pass_common
def load_command(common: Common, names: tuple[str, ...], *, yes: bool) -> None:
    """Load models into the memory of a running service, one after the other."""
    loaded: list[Model] = []
    with Session(common) as session:
        _require_running(session)
        for name in names:
            model = run_with_download(
                session,
                partial(session.client.models.load, name),
                yes=yes,
                ask=not common.as_json,
                waiting=f"Loading {name} ...",
            )
            loaded.append(model)
            if not common.as_json:
                click.echo(f"{model.alias} is loaded: {model.id}")
    if common.as_json:
        described = [_described(model) for model in loaded]
        print_json({"model": described[0]} if len(names) == 1 else {"models": described})


@command.command(
    "unload", epilog=examples("models unload phi-4-mini", "models unload mine --force")
)
@NAME
@DRAIN
@click.option("--force", is_flag=True, help="Heed no other program that uses it.")
@common_options
@pass_common
def unload_command(common: Common, name: str, drain: float, *, force: bool) -> None:
    """Take a model out of a running service's memory.

    Fails while another program uses it, and says which one.
    """
    with Session(common) as session:
        _require_running(session)
        model = session.run(
            session.client.models.unload(name, drain=drain, force=force),
            waiting=f"Unloading {name} ...",
        )
    _tell(common, model, f"{model.alias} is no longer loaded: {model.id}")


@command.command("swap", epilog=examples("models swap phi-4-mini qwen2.5-0.5b"))
@click.argument("old")
@click.argument("new")
@DRAIN
@common_options
@pass_common
def swap_command(common: Common, old: str, new: str, drain: float) -> None:
    """Unload the model OLD, and load NEW in its place.

    If NEW can't be loaded, OLD is loaded again.
    """
    with Session(common) as session:
        _require_running(session)
        model = session.run(
            session.client.models.swap(old, new, drain=drain),
            waiting=f"Loading {new} in the place of {old} ...",
        )
    _tell(common, model, f"{model.alias} is loaded in the place of {old}: {model.id}")


@command.command("add", epilog=examples("models add ./my-model --alias mine"))
@click.argument("directory", type=click.Path())
@click.option("--alias", required=True, help="The name to call it by.")
@common_options
@pass_common
def add_command(common: Common, directory: str, alias: str) -> None:
    """Serve a directory with an ONNX model of your own.

    It must hold genai_config.json, the ONNX graph and the tokenizer, and it stays where it is.
    """
    with Session(common) as session:
        model = session.run(session.client.models.register(directory, alias))
    _tell(common, model, f"{model.alias} is added: {model.id}")


@command.command("rm", epilog=examples("models rm phi-4-mini", "models rm mine"))
@NAME
@common_options
@pass_common
def rm_command(common: Common, name: str) -> None:
    """Delete a downloaded model, or forget an added directory."""
    with Session(common) as session:
        model = session.run(_remove(session.client, name))
    what = "is forgotten; its files stay" if model.catalog == "local" else "is deleted"
    _tell(common, model, f"{model.alias} {what}: {model.id}")


def show(common: Common, *, catalog: bool) -> None:
    """Print the models."""
    with Session(common) as session:
        models = session.run(
            session.client.models.list(catalog=catalog), waiting="Asking for the models ..."
        )
    if common.as_json:
        print_json({"models": [_described(model) for model in models]})
    elif models:
        print_table(COLUMNS, rows(models))
    else:
        click.echo("No model is on this machine. Get one with `foundry-api models pull NAME`.")


def rows(models: Iterable[Model]) -> list[tuple[str, ...]]:
    """Models as rows of the table."""
    return [
        (
            model.alias,
            _state(model),
            megabytes(model.size_mb),
            model.device or "",
            str(model.context_length or ""),
            model.id,
        )
        for model in models
    ]


def _require_running(session: Session) -> None:
    """Refuse what makes no sense in an engine that leaves with this command.

    Raises:
        ServiceNotRunning: No service is running.
    """
    if session.settings.service != "embedded":
        session.run(find_running(session.settings))


async def _remove(client: FoundryAPIClient, name: str) -> Model:
    model = find_model(name, await client.models.list())
    if model is None:
        raise ModelNotFound(f"no model on this machine is named {name!r}", model=name)
    if model.catalog == "local":
        await client.models.unregister(model.id)
    else:
        await client.models.remove(model.id)
    return model


def _state(model: Model) -> str:
    if model.loaded:
        return "loaded"
    return {True: "cached", False: "catalog", None: "unknown"}[model.cached]


def _described(model: Model) -> dict[str, Any]:
    """A model with every member: its own encoding leaves out what is not known."""
    return msgspec.structs.asdict(model)


def _tell(common: Common, model: Model, sentence: str) -> None:
    if common.as_json:
        print_json({"model": _described(model)})
    else:
        click.echo(sentence)
