"""`foundry-api down`: stop the shared engine."""

from __future__ import annotations

import click

from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import print_json
from foundry_api.cli.session import make_settings
from foundry_api.engine import shared
from foundry_api.storage.paths import Paths

__all__ = ["command"]


@click.command("down", epilog=format_examples("down"))
@output_options
@pass_common
def command(common: GlobalOptions) -> None:
    """Stop the shared engine.

    Does nothing if it is not running. Other services keep running.
    """
    was_running = shared.stop(Paths.from_home(make_settings(common).home))
    if common.as_json:
        print_json({"was_running": was_running})
    elif was_running:
        click.echo("The shared engine is stopped.")
    else:
        click.echo("No shared engine was running.")
