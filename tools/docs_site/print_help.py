"""Prints a page with the help of all commands of foundry-api, for the documentation site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from foundry_api.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 100


def iterate(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and those below it, with their full names."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from iterate(found, f"{name} {child}")


def print_page() -> None:
    """Print the page."""
    print("# Commands\n\nWhat `foundry-api COMMAND --help` prints.")
    for name, command in iterate(root, "foundry-api"):
        with click.Context(command, info_name=name, max_content_width=WIDTH) as context:
            text = command.get_help(context)
        print(f"\n## {name}\n\n```text\n{text}\n```")


if __name__ == "__main__":
    print_page()
