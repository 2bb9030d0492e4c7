"""`foundry-api request`: an HTTP request with the retries and the API key of the client."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import is_terminal, print_json, sanitize
from foundry_api.cli.session import Session
from foundry_api.cli.stdin import MARK, read_text
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.types.results import RawResponse

__all__ = ["command"]

EPILOG = format_examples(
    "request GET /status",
    "request GET /v1/responses --param limit=5",
    """request POST /v1/embeddings -d '{"model":"demo:1","input":"Hi"}'""",
    "request POST /v1/chat/completions --data - < body.json",
    "request --json GET /v1/models  # include status and headers",
)


@click.command("request", epilog=EPILOG)
@click.argument("method")
@click.argument("path")
@click.option("-d", "--data", metavar="JSON", help="Request body; - reads standard input.")
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="Query parameter; repeatable."
)
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="Request header; repeatable.",
)
@click.option(
    "--timeout", type=float, help="Seconds to wait for the next byte. [FOUNDRY_TIMEOUT, else 30]"
)
@click.option("--deadline", type=float, help="Seconds for the entire request. [FOUNDRY_DEADLINE]")
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    method: str,
    path: str,
    data: str | None,
    params: tuple[str, ...],
    headers: tuple[str, ...],
    timeout: float | None,
    deadline: float | None,
) -> None:
    """Send an HTTP request to the service and print the response body.

    Since SDK 2.1, the models of this machine are served below /catalogs/local.
    """
    body = None if data is None else _parse_json(data)
    query, head = _parse_pairs(params, "=", "--param"), _parse_pairs(headers, ":", "--header")
    with Session(common, timeout_s=timeout, deadline_s=deadline) as session:
        request = session.client.request(method, path, json=body, params=query, headers=head)
        response = session.run(request, description="Waiting for the response ...")
    if common.as_json:
        response_headers = {name.lower(): value for name, value in response.headers.items()}
        print_json(
            {"status": response.status, "headers": response_headers, "body": _decode_body(response)}
        )
    else:
        print_body(response)


def print_body(response: RawResponse) -> None:
    """Print a body: JSON indented, text with a final newline, anything else unchanged."""
    body = _decode_body(response)
    if not isinstance(body, str):
        print_json(body)
    elif is_terminal(sys.stdout):
        click.echo(sanitize(body), nl=bool(body))
    else:  # as bytes: from text, click would remove colour codes
        click.echo(response.body, nl=bool(body) and body.encode() == response.body)


def _decode_body(response: RawResponse) -> Any:
    kind = response.headers.get("Content-Type", "")
    return (
        response.json() if kind.startswith("application/json") and response.body else response.text
    )


def _parse_json(data: str) -> Any:
    try:
        return msgspec.json.decode(read_text("data") if data == MARK else data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", field="data") from error


def _parse_pairs(arguments: Sequence[str], separator: str, option: str) -> dict[str, str]:
    pairs = [argument.partition(separator) for argument in arguments]
    for name, found, _ in pairs:
        if not name or not found:
            raise click.UsageError(f"{option} must be NAME{separator}VALUE.")
    return {name.strip(): value.strip() for name, _, value in pairs}
