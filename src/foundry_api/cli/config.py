"""`foundry-api config`: the user's settings of the command line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import print_json, print_table, sanitize_line
from foundry_api.cli.user_config import (
    KEYS,
    UserConfig,
    get_config_path,
    get_key,
    load_user_config,
    merge_environment,
)
from foundry_api.storage.paths import PRIVATE_DIRECTORY
from foundry_api.storage.private_file import create_file
from foundry_api.types.errors import ConfigurationError, FoundryError

if TYPE_CHECKING:
    from foundry_api.cli.user_config import Key

__all__ = ["command"]

TEMPLATE = """\
# Settings of the command line. Flags and environment variables override them.
# `foundry-api config list` shows what is in effect, and from where.

"""

EPILOG = format_examples(
    "config list",
    "config set model demo",
    "config set timeout 120",
    "config set history on",
    "config unset model",
    "config edit",
)


def complete_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    del context, parameter
    return [name for name in KEYS if name.startswith(incomplete)]


# What a switch does to the privacy of the user.
NOTES = {
    ("logs", "on"): "Prompts and answers of `chat` are kept in a file that only you can read.",
    ("logs", "off"): "`foundry-api logs prune --all` deletes what was logged.",
    ("history", "on"): "What you type in conversations is kept in a file that only you can read.",
}
NAME = click.argument("name", shell_complete=complete_names)


@click.group("config", epilog=EPILOG, invoke_without_command=True)
@output_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions) -> None:
    """Show or change your settings.

    They are in a TOML file. Flags override environment variables, which override the file. Without
    a command, lists all settings. Programs that import foundry_api do not read the file.
    """
    if context.invoked_subcommand is None:
        _print_settings(common)


@command.command("list", epilog=format_examples("config list", "config list --json"))
@output_options
@pass_common
def list_command(common: GlobalOptions) -> None:
    """List all settings, their values, and where these are from."""
    _print_settings(common)


@command.command("get", epilog=format_examples("config get model"))
@NAME
@output_options
@pass_common
def get_command(common: GlobalOptions, name: str) -> None:
    """Print the value of a setting."""
    value, origin = _resolve(get_key(name), load_user_config())
    if common.as_json:
        print_json({"name": name, "value": value, "from": origin})
    else:
        click.echo(sanitize_line(value))


@command.command(
    "set", epilog=format_examples("config set model demo", "config set cache ./answers.db")
)
@NAME
@click.argument("value")
@output_options
@pass_common
def set_command(common: GlobalOptions, name: str, value: str) -> None:
    """Set a setting. An invalid value is refused, and the file stays as it is."""
    _report_change(common, name, load_user_config().set(name, value))


@command.command("unset", epilog=format_examples("config unset model"))
@NAME
@output_options
@pass_common
def unset_command(common: GlobalOptions, name: str) -> None:
    """Remove a setting from the file, so that its default applies."""
    _report_change(common, name, load_user_config().unset(name))


@command.command("path", epilog=format_examples("config path"))
@output_options
@pass_common
def path_command(common: GlobalOptions) -> None:
    """Print the path of the file, which need not exist."""
    path = get_config_path()
    if common.as_json:
        print_json({"path": str(path), "exists": path.exists()})
    else:
        click.echo(path)


@command.command("edit", epilog=format_examples("config edit"))
@output_options
@pass_common
def edit_command(common: GlobalOptions) -> None:
    """Open the file in your editor: $VISUAL or $EDITOR."""
    path = get_config_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        if not path.exists():
            create_file(path)
            path.write_text(TEMPLATE + "".join(map(_format_comment, KEYS.values())), "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    try:
        click.edit(filename=str(path))
    except click.ClickException as error:
        raise FoundryError(
            f"the editor failed: {error.message}",
            hint=f"Set VISUAL or EDITOR to another one, or change {path}.",
        ) from error
    config = load_user_config()  # raises for what is invalid now
    if common.as_json:
        print_json({"path": str(path), "values": config.values})


def _print_settings(common: GlobalOptions) -> None:
    config = load_user_config()
    rows = [(key.name, *_resolve(key, config)) for key in KEYS.values()]
    if common.as_json:
        settings = [dict(zip(("name", "value", "from"), row, strict=True)) for row in rows]
        print_json({"path": str(config.path), "settings": settings})
    else:
        print_table(("NAME", "VALUE", "FROM"), rows)


def _resolve(key: Key, config: UserConfig) -> tuple[str, str]:
    """Return the value of a setting and where it is from."""
    if not key.variable:
        is_set = key.name in config.values
        return ("on" if config.is_on(key.name) else "off"), ("file" if is_set else "default")
    text = merge_environment(config, os.environ).get(key.variable)
    if text is None:
        return key.default, "default"
    return text, key.variable if os.environ.get(key.variable, "").strip() else "file"


def _report_change(common: GlobalOptions, name: str, config: UserConfig) -> None:
    value, origin = _resolve(KEYS[name], config)
    if common.as_json:
        print_json({"name": name, "value": value, "from": origin, "path": str(config.path)})
        return
    where = {"file": "", "default": ", the default"}.get(origin, f", which {origin} sets")
    click.echo(sanitize_line(f"{name} is {value or 'unset'}{where}."))
    if note := NOTES.get((name, value)):
        click.echo(note)


def _format_comment(key: Key) -> str:
    example = f'"{key.default}"' if key.name in {"model", "cache"} else key.default
    if not key.variable:
        example = "false"
    return f"# {key.name} = {example.ljust(12)}  # {key.meaning}\n"
