"""`foundry-api embed`: texts as vectors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from foundry_api.cli.options import Common, common_options, examples, pass_common
from foundry_api.cli.output import print_json
from foundry_api.cli.session import Session
from foundry_api.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.replies.embeddings import Embeddings

__all__ = ["command"]

EPILOG = examples(
    'embed --model demo "What is the capital of France?"',
    "embed --model demo one two three           three texts",
    "embed --model qwen3-embedding-0.6b < lines.txt > vectors.jsonl",
    "embed --json --model demo Hello",
)


@click.command("embed", epilog=EPILOG)
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("-m", "--model", metavar="NAME", required=True, help="Alias or id of an embedder.")
@click.option("--timeout", type=float, help="Seconds for each request. [FOUNDRY_TIMEOUT, else 30]")
@click.option("--deadline", type=float, help="Seconds for all of them. [FOUNDRY_DEADLINE]")
@click.option("-y", "--yes", is_flag=True, help="Download a missing model.")
@common_options
@pass_common
def command(
    common: Common,
    *,
    texts: tuple[str, ...],
    model: str,
    timeout: float | None,
    deadline: float | None,
    yes: bool,
) -> None:
    """Turn texts into vectors, one JSON array a line.

    The texts are the arguments, or else the lines of standard input; empty lines are left out.
    """
    told = texts or _lines()
    with Session(common, timeout_s=timeout, deadline_s=deadline) as session:
        made = session.run(
            session.client.embed(told, model=model, download=yes), waiting="Embedding"
        )
    if common.as_json:
        print_json(_described(made))
        return
    for vector in made:
        print_json(vector, indent=0)


def _lines() -> Sequence[str]:
    """The lines of standard input, without the mark that Windows begins text with."""
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("Give texts as arguments, or one a line on standard input.")
    try:
        lines = sys.stdin.read().removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            "standard input is not text in UTF-8", field="texts", hint="Convert it first."
        ) from error
    return [line for line in lines if line.strip()]


def _described(made: Embeddings) -> dict[str, object]:
    """Vectors as JSON."""
    return {
        "model": made.model,
        "dimensions": made.dimensions,
        "vectors": made.vectors,
        "usage": made.usage,
        "timings": made.timings,
        "attempts": len(made.attempts),
        "service": made.service,
        "generation": made.generation,
    }
