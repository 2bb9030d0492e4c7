"""`foundry-api completion`: scripts that make shells complete verbs, options and models."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
)

from foundry_api.cli.options import GlobalOptions, output_options, pass_common
from foundry_api.cli.output import print_json
from foundry_api.cli.root import COMPLETE_VARIABLE, PROGRAM

__all__ = ["PowerShellComplete", "command"]

SHELLS = ("bash", "zsh", "fish", "powershell")

EPILOG = """\b
Examples:
  eval "$(foundry-api completion bash)"    # in ~/.bashrc
  eval "$(foundry-api completion zsh)"     # in ~/.zshrc, after compinit
  foundry-api completion fish > ~/.config/fish/completions/foundry-api.fish
  foundry-api completion powershell | Out-String | Invoke-Expression
"""

POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($word, $ast, $cursor)
    $env:%(complete_var)s = "powershell_complete"
    $env:COMP_WORDS = ($ast.CommandElements | ForEach-Object { $_.Extent.Text }) -join "`n"
    $env:COMP_WORD = $word
    try {
        %(prog_name)s | ForEach-Object {
            $kind, $value, $help = $_ -split "`t", 3
            if ($kind -eq "plain") {
                [System.Management.Automation.CompletionResult]::new(
                    $value, $value, "ParameterValue", $(if ($help) { $help } else { $value }))
            } else {
                [System.Management.Automation.CompletionCompleters]::CompleteFilename($word)
            }
        }
    } finally {
        Remove-Item Env:%(complete_var)s, Env:COMP_WORDS, Env:COMP_WORD -ErrorAction Ignore
    }
}
"""


class PowerShellComplete(ShellComplete):
    """Completion for PowerShell, which click lacks."""

    name: ClassVar[str] = "powershell"
    source_template: ClassVar[str] = POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one that is completed."""
        words = os.environ["COMP_WORDS"].split("\n")[1:]
        incomplete = os.environ.get("COMP_WORD", "")
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return a line of the kind, the value and the help."""
        summary = " ".join((item.help or "").split())
        return f"{item.type}\t{item.value}\t{summary}"


add_completion_class(PowerShellComplete)


@click.command("completion", epilog=EPILOG)
@click.argument("shell", type=click.Choice(SHELLS))
@output_options
@pass_common
def command(common: GlobalOptions, *, shell: str) -> None:
    """Print a script for shell completion.

    It completes verbs, options and the models of this machine. Run it at the start of your shell,
    as below.
    """
    shell_class = get_completion_class(shell)
    if shell_class is None:
        raise click.UsageError(f"{shell} is not supported.")
    script = shell_class(click.Command(PROGRAM), {}, PROGRAM, COMPLETE_VARIABLE).source()
    if common.as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script, nl=not script.endswith("\n"))
