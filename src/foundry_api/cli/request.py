"""`foundry-api request`: any request to the service, with its guards and credentials."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.options import Common, common_options, examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, sanitize
from foundry_api.cli.session import Session
from foundry_api.cli.stdin import MARK, read_text
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.results import RawReply

__all__ = ["command"]

EPILOG = examples(
    "request GET /status",
    "request GET /v1/responses --param limit=5",
    """request POST /v1/embeddings --data '{"model": "demo:1", "input": "Hello"}'""",
    "request POST /v1/chat/completions --data - < body.json",
    "request --json GET /v1/models       with status and headers",
)


@click.command("request", epilog=EPILOG)
@click.argument("method")
@click.argument("path")
@click.option("-d", "--data", metavar="JSON", help="The body; - takes it from standard input.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="Of the query.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="To send.")
@click.option("--timeout", type=float, help="Seconds without a byte. [FOUNDRY_TIMEOUT, else 30]")
@click.option("--deadline", type=float, help="Seconds for all of it. [FOUNDRY_DEADLINE]")
@common_options
@pass_common
def command(
    common: Common,
    *,
    method: str,
    path: str,
    data: str | None,
    params: tuple[str, ...],
    headers: tuple[str, ...],
    timeout: float | None,
    deadline: float | None,
) -> None:
    """Send any request to the service, and print the body of its answer.

    From SDK 2.1 on the models of this machine are behind /catalogs/local.
    """
    body = None if data is None else _json(data)
    query, head = _pairs(params, "=", "--param"), _pairs(headers, ":", "--header")
    with Session(common, timeout_s=timeout, deadline_s=deadline) as session:
        asked = session.client.request(method, path, json=body, params=query, headers=head)
        reply = session.run(asked, waiting="Waiting for the answer")
    if common.as_json:
        headers_told = {name.lower(): value for name, value in reply.headers.items()}
        print_json({"status": reply.status, "headers": headers_told, "body": _body(reply)})
    else:
        show_body(reply)


def show_body(reply: RawReply) -> None:
    """Print a body: JSON indented, other text with a line end; a pipe gets anything else as is."""
    body = _body(reply)
    if not isinstance(body, str):
        print_json(body)
    elif is_terminal(sys.stdout):
        click.echo(sanitize(body), nl=bool(body))
    else:  # as bytes: of text, click takes the colours away
        click.echo(reply.body, nl=bool(body) and body.encode() == reply.body)


def _body(reply: RawReply) -> Any:
    """The body as JSON, if it is that, else as text."""
    kind = reply.headers.get("Content-Type", "")
    return reply.json() if kind.startswith("application/json") and reply.body else reply.text


def _json(data: str) -> Any:
    try:
        return msgspec.json.decode(read_text("data") if data == MARK else data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", field="data") from error


def _pairs(given: Sequence[str], between: str, option: str) -> dict[str, str]:
    pairs = [each.partition(between) for each in given]
    for name, found, _ in pairs:
        if not name or not found:
            raise click.UsageError(f"{option} wants NAME{between}VALUE.")
    return {name.strip(): value.strip() for name, _, value in pairs}
