"""`foundry-api keys`: create, list, rotate, revoke and remove the API keys of the gateway."""

from __future__ import annotations

import getpass
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from foundry_api.cli.options import GlobalOptions, format_examples, output_options, pass_common
from foundry_api.cli.output import (
    is_terminal,
    print_fields,
    print_json,
    print_table,
    sanitize_line,
)
from foundry_api.cli.session import make_settings
from foundry_api.gateway.audit import AuditFile, AuditRecord
from foundry_api.gateway.config import load_config
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.options import (
    RATE_UNITS,
    TOKEN_UNITS,
    check_key_name,
    parse_grace,
    parse_lifetime,
    parse_limit,
    parse_limits,
    parse_models,
    parse_scopes,
)
from foundry_api.gateway.keys.pepper import get_pepper_variable
from foundry_api.gateway.keys.types import NewKey
from foundry_api.observe.format import format_duration, format_time
from foundry_api.storage.lock import LockTimeout
from foundry_api.storage.paths import Paths
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.keys.types import ApiKey

__all__ = ["command"]

EXIT_FAILED = 1
MAX_PARALLEL = 100_000
MAX_WEIGHT = 1000.0

KEY = click.argument("key", metavar="KEY")
DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Directory of the gateway. [FOUNDRY_GATEWAY_DIRECTORY, else FOUNDRY_HOME/gateway]",
)
EPILOG = format_examples(
    "keys create --name laptop",
    "keys create --name ci --rate 60/m --tokens 100000/d --expires 90d",
    "keys create --name grafana --scope metrics",
    "keys list",
    "keys rotate ci --grace 24h",
    "keys revoke ci",
)


@click.group("keys", epilog=EPILOG, invoke_without_command=True)
@DIRECTORY
@output_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions, directory: str | None) -> None:
    """Manage the API keys of the gateway.

    Without a command, lists the keys. KEY is the name or the id of a key. A running gateway notices
    every change within a second.

    Tokens are stored as digests under a secret, the pepper, which is in a file beside the keys or
    in the file that FOUNDRY_GATEWAY_PEPPER_FILE names.
    """
    context.meta["directory"] = directory
    if context.invoked_subcommand is None:
        _print_keys(common, directory)


@command.command(
    "create",
    epilog=format_examples(
        "keys create --name laptop",
        "keys create --name ci --models phi-4-mini,demo --rate 60/m --parallel 4 --expires 90d",
        "keys create --name team --tokens 2000/m,1000000/mo --weight 2",
        "keys create --name grafana --scope metrics --json",
    ),
)
@click.option("--name", required=True, help="Name of the key, which no other key has.")
@click.option(
    "--scope",
    metavar="SCOPES",
    default="inference",
    show_default=True,
    help="What it opens, separated by commas: inference, manage, metrics.",
)
@click.option("--models", metavar="MODELS", help="Models it may use, separated by commas. [all]")
@click.option(
    "--expires", metavar="DURATION", help="How long it is valid, such as 90d or 12h. [for ever]"
)
@click.option("--rate", metavar="N/UNIT", help="Requests per s, m, h or d, such as 60/m. [any]")
@click.option(
    "--tokens",
    metavar="N/UNIT",
    help="Tokens per m, h, d or mo (month), such as 100000/d; several with commas. [any]",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, MAX_PARALLEL),
    metavar="N",
    help="Calls that may run at the same time. [any]",
)
@click.option(
    "--weight",
    type=click.FloatRange(0, MAX_WEIGHT, min_open=True),
    default=1.0,
    show_default=True,
    metavar="NUMBER",
    help="Its share while the service is busy, beside the weights of other keys.",
)
@DIRECTORY
@output_options
@pass_common
def create_command(
    common: GlobalOptions,
    *,
    name: str,
    scope: str,
    models: str | None,
    expires: str | None,
    rate: str | None,
    tokens: str | None,
    parallel: int | None,
    weight: float,
    directory: str | None,
) -> None:
    """Create a key, and show its token.

    The token is printed to standard output, everything else to standard error. It is not stored, so
    it cannot be shown again; `keys rotate` makes a new one.
    """
    new = NewKey(
        name=check_key_name("name", name),
        scopes=parse_scopes("scope", scope),
        models=None if models is None else parse_models("models", models),
        lifetime_s=None if expires is None else parse_lifetime("expires", expires),
        rate=None if rate is None else parse_limit("rate", rate, RATE_UNITS),
        tokens=() if tokens is None else parse_limits("tokens", tokens, TOKEN_UNITS),
        parallel=parallel,
        weight=weight,
    )
    database = _open_database(common, directory)
    key, token = database.create(new)
    _record(database, "key.create", key)
    _print_token(common, key, token, "is created")


@command.command("list", epilog=format_examples("keys list", "keys list --json"))
@DIRECTORY
@output_options
@pass_common
def list_command(common: GlobalOptions, directory: str | None) -> None:
    """List all keys, also those that are expired or revoked."""
    _print_keys(common, directory)


@command.command("show", epilog=format_examples("keys show ci", "keys show ci --json"))
@KEY
@DIRECTORY
@output_options
@pass_common
def show_command(common: GlobalOptions, key: str, directory: str | None) -> None:
    """Show what a key may do, but not its token."""
    database = _open_database(common, directory)
    found, now = database.get(key), database.now()
    if common.as_json:
        print_json({"key": _to_json(found, now)})
        return
    print_fields(
        found.name,
        found.get_state(now),
        [
            ("id", found.id),
            ("scopes", ", ".join(sorted(found.scopes))),
            ("models", _format_models(found)),
            ("requests", str(found.rate or "any number")),
            ("tokens", ", ".join(map(str, found.tokens)) or "any number"),
            ("parallel calls", str(found.parallel or "any number")),
            ("weight", f"{found.weight:g}"),
            ("created", format_time(found.created_at)),
            ("expires", format_time(found.expires_at) or "never"),
            ("earlier token until", format_time(_get_grace(found, now))),
            ("revoked", format_time(found.revoked_at)),
        ],
    )


@command.command(
    "rotate", epilog=format_examples("keys rotate ci --grace 24h", "keys rotate ci --grace 0")
)
@KEY
@click.option(
    "--grace",
    metavar="DURATION",
    default="24h",
    show_default=True,
    help="How long its earlier token stays valid; 0 ends it, and its running calls, at once.",
)
@DIRECTORY
@output_options
@pass_common
def rotate_command(common: GlobalOptions, key: str, grace: str, directory: str | None) -> None:
    """Give a key a new token, and show it.

    Name, limits and expiry stay. Use --grace 0 for a token that others may have seen.
    """
    grace_s = parse_grace("grace", grace)
    database = _open_database(common, directory)
    rotated, token = database.rotate(key, grace_s=grace_s)
    _record(database, "key.rotate", rotated)
    ends = f"is valid for {format_duration(grace_s)} more" if grace_s else "is no longer valid"
    _print_token(common, rotated, token, f"has a new token; the earlier one {ends}")


@command.command("revoke", epilog=format_examples("keys revoke ci"))
@KEY
@DIRECTORY
@output_options
@pass_common
def revoke_command(common: GlobalOptions, key: str, directory: str | None) -> None:
    """End a key for good, and its running calls with it.

    It stays in the list, and its name stays taken.
    """
    database = _open_database(common, directory)
    revoked = database.revoke(key)
    _record(database, "key.revoke", revoked)
    _print_change(common, revoked, "is revoked")


@command.command("remove", epilog=format_examples("keys remove ci", "keys remove -y ci"))
@KEY
@click.option("-y", "--yes", is_flag=True, help="Remove without asking.")
@DIRECTORY
@output_options
@pass_common
def remove_command(common: GlobalOptions, key: str, directory: str | None, *, yes: bool) -> None:
    """Delete a key; one that is in use ends at once."""
    database = _open_database(common, directory)
    found = database.get(key)
    is_interactive = is_terminal(sys.stdin) and is_terminal(sys.stderr)
    if is_interactive and not (yes or common.as_json):
        question = (
            f"Remove the key {found.name} ({found.id}), which is {found.get_state(database.now())}?"
        )
        if not click.confirm(sanitize_line(question), err=True):
            raise click.exceptions.Exit(EXIT_FAILED)
    removed = database.remove(found.id)
    _record(database, "key.remove", removed)
    _print_change(common, removed, "is removed")


def _open_database(common: GlobalOptions, directory: str | None) -> KeyDatabase:
    settings = make_settings(common)
    # `keys --dir DIR list` and `keys list --dir DIR` mean the same.
    if directory is None:
        directory = click.get_current_context().meta.get("directory")
    if directory is None:
        path = _load_config().directory or Paths.from_home(settings.home).gateway
    else:
        try:
            path = absolute_path(directory)
        except ValueError as error:
            raise click.UsageError(f"--dir is {directory!r}: {error}.") from error
    return KeyDatabase(path, pepper_file=get_pepper_variable(os.environ))


def _load_config() -> GatewayConfig:
    """Load what the environment says about the gateway; a file of it is not known here."""
    return load_config(None, {})


def _record(database: KeyDatabase, event: str, key: ApiKey) -> None:
    """Write a change to the audit log. The change is made, so a failure is only reported."""
    if not _load_config().audit_log:
        return
    record = AuditRecord(
        time=time.time(), event=event, user=_get_user(), target=f"{key.name} ({key.id})"
    )
    file = AuditFile(database.path.parent)
    try:
        file.append([record])
    except (OSError, LockTimeout) as error:
        click.echo(sanitize_line(f"The audit log {file.path} is not written: {error}"), err=True)


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name, as in containers
        return str(os.getuid()) if sys.platform != "win32" else "unknown"


def _print_keys(common: GlobalOptions, directory: str | None) -> None:
    database = _open_database(common, directory)
    keys, now = database.list(), database.now()
    if common.as_json:
        print_json({"file": str(database.path), "keys": [_to_json(key, now) for key in keys]})
    elif keys:
        headers = ["ID", "NAME", "STATE", "SCOPES", "MODELS", "LIMITS", "EXPIRES"]
        print_table(headers, [_make_row(key, now) for key in keys])
    else:
        click.echo(sanitize_line(f"There are no keys in {database.path.parent}."))
        click.echo("Create one with `foundry-api keys create --name NAME`.")


def _make_row(key: ApiKey, now: float) -> Sequence[str]:
    limits = [
        f"{key.rate} requests" if key.rate else "",
        *(f"{limit} tokens" for limit in key.tokens),
        f"{key.parallel} parallel" if key.parallel else "",
    ]
    return [
        key.id,
        key.name,
        key.get_state(now),
        ",".join(sorted(key.scopes)),
        _format_models(key),
        ", ".join(filter(None, limits)) or "none",
        format_time(key.expires_at) or "never",
    ]


def _print_token(common: GlobalOptions, key: ApiKey, token: str, change: str) -> None:
    if common.as_json:
        print_json({"key": _to_json(key, time.time()), "token": token})
        return
    # The token alone on standard output, for `TOKEN=$(foundry-api keys create --name ci)`.
    click.echo(sanitize_line(f"The key {key.name} ({key.id}) {change}."), err=True)
    click.echo("Keep its token now; it cannot be shown again:", err=True)
    click.echo(token)


def _print_change(common: GlobalOptions, key: ApiKey, change: str) -> None:
    if common.as_json:
        print_json({"key": _to_json(key, time.time())})
    else:
        click.echo(sanitize_line(f"The key {key.name} ({key.id}) {change}."))


def _format_models(key: ApiKey) -> str:
    return "all" if key.models is None else ",".join(sorted(key.models))


def _get_grace(key: ApiKey, now: float) -> float | None:
    is_running = key.grace_until is not None and key.grace_until > now
    return key.grace_until if is_running else None


def _to_json(key: ApiKey, now: float) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "state": key.get_state(now),
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else sorted(key.models),
        "rate": None if key.rate is None else str(key.rate),
        "tokens": [str(limit) for limit in key.tokens],
        "parallel": key.parallel,
        "weight": key.weight,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "grace_until": _get_grace(key, now),
        "revoked_at": key.revoked_at,
    }
