"""`foundry-api templates`: the prompt templates of `chat`."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING

import click
import msgspec

from foundry_api.cli.options import (
    GlobalOptions,
    complete_templates,
    format_examples,
    output_options,
    pass_common,
)
from foundry_api.cli.output import print_json, print_notice, print_table, sanitize
from foundry_api.cli.template import load_template
from foundry_api.cli.template_files import get_template_directory, list_templates
from foundry_api.cli.text_file import read_text_file
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]

EPILOG = format_examples(
    "templates list",
    "templates show summary",
    "chat -t summary < report.txt",
    'chat -t ./translate.toml --param to=French "Good morning"',
)
MAX_DESCRIPTION = 60


@click.group("templates", epilog=EPILOG, invoke_without_command=True)
@output_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions) -> None:
    """Show the prompt templates of `chat`.

    A template is a TOML file with a prompt, a system message, a model and options, or a text file
    with a prompt. Those in your templates directory have names. Without a command, lists them.
    """
    if context.invoked_subcommand is None:
        _print_list(common)


@command.command("list", epilog=format_examples("templates list", "templates list --json"))
@output_options
@pass_common
def list_command(common: GlobalOptions) -> None:
    """List the templates, their variables, and what they are for."""
    _print_list(common)


@command.command("show", epilog=format_examples("templates show summary"))
@click.argument("name", shell_complete=complete_templates)
@output_options
@pass_common
def show_command(common: GlobalOptions, name: str) -> None:
    """Print a template, after checking it."""
    template = load_template(name)
    path = list_templates().get(name, name)
    if common.as_json:
        print_json({"path": str(path), **msgspec.structs.asdict(template)})
        return
    print_notice(str(path))
    click.echo(sanitize(read_text_file(str(path), "NAME").text.rstrip()))


@command.command("path", epilog=format_examples("templates path"))
@output_options
@pass_common
def path_command(common: GlobalOptions) -> None:
    """Print the path of the templates directory, which need not exist."""
    directory = get_template_directory()
    if common.as_json:
        print_json({"path": str(directory), "exists": directory.is_dir()})
    else:
        click.echo(directory)


def _print_list(common: GlobalOptions) -> None:
    rows = [(name, str(path), *_describe(path)) for name, path in list_templates().items()]
    if common.as_json:
        names = ("name", "path", "variables", "description")
        print_json({"templates": [dict(zip(names, row, strict=True)) for row in rows]})
    elif not rows:
        click.echo(f"There are no templates in {get_template_directory()}.")
    else:
        print_table(
            ("NAME", "VARIABLES", "DESCRIPTION"),
            [
                (name, ", ".join(variables), shorten(description, MAX_DESCRIPTION))
                for name, _, variables, description in rows
            ],
        )


def _describe(path: Path) -> tuple[list[str], str]:
    """Return the variables of a template, and what it is for."""
    try:
        template = load_template(str(path))
    except InvalidRequest as error:  # the other templates are of use
        return [], f"invalid: {error.message}"
    return template.variables, template.description or template.prompt or template.system or ""
