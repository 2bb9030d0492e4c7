"""`foundry-api embed`: embeddings of texts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json
from foundry_api.cli.session import Session
from foundry_api.cli.stdin import MARK, read_piped_text, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.results import Embeddings

__all__ = ["command"]

EPILOG = format_examples(
    'embed --model demo "What is the capital of France?"',
    "embed --model demo one two three  # three texts",
    "embed --model qwen3-embedding-0.6b < lines.txt > vectors.jsonl",
    "embed --json --model demo Hello",
)


@click.command("embed", epilog=EPILOG)
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("-m", "--model", metavar="NAME", required=True, help="Embedding model, alias or id.")
@click.option("--timeout", type=float, help="Seconds for each request. [FOUNDRY_TIMEOUT, else 30]")
@click.option("--deadline", type=float, help="Seconds for all requests. [FOUNDRY_DEADLINE]")
@click.option("-y", "--yes", is_flag=True, help="Download a missing model.")
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    texts: tuple[str, ...],
    model: str,
    timeout: float | None,
    deadline: float | None,
    yes: bool,
) -> None:
    """Compute embeddings, one JSON array per line.

    The texts are the arguments, followed by the lines of standard input unless that is a terminal.
    Empty lines are skipped. A `-` among the arguments inserts the lines at its place.
    """
    inputs = _collect_texts(texts)
    with Session(common, timeout_s=timeout, deadline_s=deadline) as session:
        embeddings = session.run(
            session.client.embed(inputs, model=model, download=yes), description="Embedding ..."
        )
    if common.as_json:
        print_json(_to_json(embeddings))
        return
    for vector in embeddings:
        print_json(vector, indent=0)


def _collect_texts(arguments: Sequence[str]) -> Sequence[str]:
    if not arguments:
        if is_terminal(sys.stdin):
            raise click.UsageError("Give texts as arguments, or one per line on standard input.")
        return _split_lines(read_text("texts"))
    if MARK not in arguments:
        return [*arguments, *_split_lines(read_piped_text("texts"))]
    return [
        text
        for argument in arguments
        for text in (_split_lines(read_text("texts")) if argument == MARK else (argument,))
    ]


def _split_lines(text: str) -> Sequence[str]:
    return [line for line in text.splitlines() if line.strip()]


def _to_json(embeddings: Embeddings) -> dict[str, object]:
    return {
        "model": embeddings.model,
        "dimensions": embeddings.dimensions,
        "vectors": embeddings.vectors,
        "usage": embeddings.usage,
        "timings": embeddings.timings,
        "attempts": len(embeddings.attempts),
        "service": embeddings.service,
        "service_generation": embeddings.service_generation,
    }
