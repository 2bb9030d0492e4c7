"""`foundry-api keys`: create, list, change, rotate, revoke and remove the gateway's API keys."""

from __future__ import annotations

import getpass
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from foundry_api.cli.options import (
    GlobalOptions,
    apply_options,
    format_examples,
    output_options,
    pass_common,
)
from foundry_api.cli.output import (
    is_terminal,
    print_fields,
    print_json,
    print_notice,
    print_table,
    sanitize_line,
)
from foundry_api.cli.session import make_settings
from foundry_api.gateway.audit import AuditFile, AuditRecord
from foundry_api.gateway.config import load_config
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.options import (
    MAX_WEIGHT,
    RATE_UNITS,
    TOKEN_UNITS,
    check_key_name,
    parse_grace,
    parse_lifetime,
    parse_limit,
    parse_limits,
    parse_models,
    parse_parallel,
    parse_scopes,
)
from foundry_api.gateway.keys.types import KeyChanges, NewKey
from foundry_api.gateway.limits.persistence import BUDGET_FILE, read_used
from foundry_api.observe.format import format_duration, format_time
from foundry_api.storage.lock import LockTimeout
from foundry_api.storage.paths import Paths
from foundry_api.storage.sqlite import ForeignFile, OtherFormat
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.keys.types import ApiKey, Limit

__all__ = ["command"]

_F = TypeVar("_F", bound="Callable[..., Any]")

EXIT_FAILED = 1

KEY = click.argument("key", metavar="KEY")


def _store_place(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # `keys --dir DIR list` and `keys list --dir DIR` mean the same.
    if value is not None:
        context.meta[f"{__name__}.{parameter.name}"] = value


PLACE = (
    click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False),
        metavar="DIR",
        expose_value=False,
        callback=_store_place,
        help="Directory of the gateway. [FOUNDRY_GATEWAY_DIRECTORY, else FOUNDRY_HOME/gateway]",
    ),
    click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_store_place,
        help="TOML file of the gateway, which may name its directory.",
    ),
)


def place_options(command: _F) -> _F:
    """Add the options that say which gateway is meant, and those of all commands."""
    return apply_options(PLACE, output_options(command))


# The defaults in brackets are those of a new key.
PERMISSIONS = (
    click.option(
        "--scope",
        metavar="SCOPES",
        help="What it opens, separated by commas: inference, manage, metrics. [inference]",
    ),
    click.option("--models", metavar="MODELS", help="Models it may use, with commas. [all]"),
    click.option(
        "--expires",
        metavar="DURATION",
        help="How long it is valid from now on, such as 90d or 12h. [never]",
    ),
    click.option("--rate", metavar="N/UNIT", help="Requests per s, m, h or d, such as 60/m. [any]"),
    click.option(
        "--tokens",
        metavar="N/UNIT",
        help="Tokens per m, h, d or mo (month), such as 100000/d; several with commas. [any]",
    ),
    click.option(
        "--parallel", metavar="N", help="Calls that may wait or run at the same time. [any]"
    ),
    click.option(
        "--weight",
        type=click.FloatRange(0, MAX_WEIGHT, min_open=True),
        metavar="NUMBER",
        help="Its share while the service is busy, beside the weights of other keys. [1]",
    ),
)


def permission_options(command: _F) -> _F:
    """Add the options that say what a key may do."""
    return apply_options(PERMISSIONS, command)


EPILOG = format_examples(
    "keys create --name laptop",
    "keys create --name ci --rate 60/m --tokens 100000/d",
    "keys create --name grafana --scope metrics",
    "keys list",
    "keys update ci --rate 120/m",
    "keys rotate ci --grace 24h",
    "keys revoke ci",
)


@click.group("keys", epilog=EPILOG, invoke_without_command=True)
@place_options
@pass_common
@click.pass_context
def command(context: click.Context, common: GlobalOptions) -> None:
    """Manage the API keys of the gateway.

    Without a command, lists the keys. KEY is the name or the id of a key. A running gateway notices
    every change within a second.

    Tokens are stored as digests under a secret, the pepper, which is in a file beside the keys or
    in the one of the setting `pepper_file` (FOUNDRY_GATEWAY_PEPPER_FILE).
    """
    if context.invoked_subcommand is None:
        _print_keys(common)


@command.command(
    "create",
    epilog=format_examples(
        "keys create --name laptop",
        "keys create --name ci --models demo --parallel 4 --expires 90d",
        "keys create --name team --tokens 2000/m,1000000/mo --weight 2",
        "keys create --name grafana --scope metrics --json",
    ),
)
@click.option("--name", required=True, help="Name of the key, which no other key has.")
@permission_options
@place_options
@pass_common
def create_command(common: GlobalOptions, /, *, name: str, **permissions: Any) -> None:
    """Create a key, and show its token.

    The token is printed to standard output, everything else to standard error. It is not stored, so
    it cannot be shown again; `keys rotate` makes a new one.
    """
    new = NewKey(name=check_key_name("name", name), **_read_permissions(permissions))
    database = _open_database(common)
    key, token = database.create(new)
    _record(database, "key.create", key)
    _print_token(common, key, token, "is created")


@command.command(
    "update",
    epilog=format_examples(
        "keys update ci --rate 120/m --tokens any",
        "keys update ci --models all --expires never",
    ),
)
@KEY
@permission_options
@place_options
@pass_common
def update_command(common: GlobalOptions, /, key: str, **permissions: Any) -> None:
    """Change what a key may do; its token stays.

    Options that are not given leave what it has. What it has used counts on under a changed limit.
    `any`, `all` and `never` remove a limit. Values in brackets are those of a new key.
    """
    changes = _read_permissions(permissions)
    if not changes:
        raise click.UsageError("Give at least one option that says what to change.")
    database = _open_database(common)
    changed = database.update(key, KeyChanges(**changes))
    _record(database, "key.update", changed)
    _print_change(common, changed, "is changed")


@command.command("list", epilog=format_examples("keys list", "keys list --json"))
@place_options
@pass_common
def list_command(common: GlobalOptions) -> None:
    """List all keys, also those that are expired or revoked."""
    _print_keys(common)


@command.command("show", epilog=format_examples("keys show ci", "keys show ci --json"))
@KEY
@place_options
@pass_common
def show_command(common: GlobalOptions, key: str) -> None:
    """Show what a key may do and what it has used, but not its token."""
    database = _open_database(common)
    found, now = database.get(key), database.now()
    used = _read_used(database, found, now)
    if common.as_json:
        print_json({"key": found.describe(now), "used": used})
        return
    print_fields(
        found.name,
        found.get_state(now),
        [
            ("id", found.id),
            ("scopes", ", ".join(sorted(found.scopes))),
            ("models", _format_models(found)),
            ("requests", _format_limits("requests", [found.rate] if found.rate else [], used)),
            ("tokens", _format_limits("tokens", found.tokens, used)),
            ("parallel calls", str(found.parallel or "any number")),
            ("weight", f"{found.weight:g}"),
            ("created", format_time(found.created_at)),
            ("expires", format_time(found.expires_at) or "never"),
            ("earlier token until", format_time(found.describe(now)["grace_until"])),
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
@place_options
@pass_common
def rotate_command(common: GlobalOptions, key: str, grace: str) -> None:
    """Give a key a new token, and show it.

    Name, limits and expiry stay. Use --grace 0 for a token that others may have seen.
    """
    grace_s = parse_grace("grace", grace)
    database = _open_database(common)
    rotated, token = database.rotate(key, grace_s=grace_s)
    _record(database, "key.rotate", rotated)
    ends = f"is valid for {format_duration(grace_s)} more" if grace_s else "is no longer valid"
    _print_token(common, rotated, token, f"has a new token; the earlier one {ends}")


@command.command("revoke", epilog=format_examples("keys revoke ci"))
@KEY
@place_options
@pass_common
def revoke_command(common: GlobalOptions, key: str) -> None:
    """End a key for good, and its running calls with it.

    It stays in the list, and its name stays taken.
    """
    database = _open_database(common)
    revoked = database.revoke(key)
    _record(database, "key.revoke", revoked)
    _print_change(common, revoked, "is revoked")


@command.command("remove", epilog=format_examples("keys remove ci", "keys remove -y ci"))
@KEY
@click.option("-y", "--yes", is_flag=True, help="Remove without asking, as without a terminal.")
@place_options
@pass_common
def remove_command(common: GlobalOptions, key: str, *, yes: bool) -> None:
    """Delete a key; one that is in use ends at once."""
    database = _open_database(common)
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


def _read_permissions(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a key that options set; those that are not given are left out."""
    read: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
        "scope": ("scopes", parse_scopes),
        "models": ("models", _unless("all", parse_models)),
        "expires": ("lifetime_s", _unless("never", parse_lifetime)),
        "rate": ("rate", _unless("any", lambda field, text: parse_limit(field, text, RATE_UNITS))),
        "tokens": (
            "tokens",
            _unless("any", lambda field, text: parse_limits(field, text, TOKEN_UNITS), ()),
        ),
        "parallel": ("parallel", _unless("any", parse_parallel)),
        "weight": ("weight", lambda _field, value: value),
    }
    return {
        member: parse(option, options[option])
        for option, (member, parse) in read.items()
        if options[option] is not None
    }


def _unless(
    word: str, parse: Callable[[str, str], Any], unlimited: Any = None
) -> Callable[[str, str], Any]:
    """Return a parser for which a word means no limit."""
    return lambda field, text: unlimited if text.strip() == word else parse(field, text)


def _open_database(common: GlobalOptions) -> KeyDatabase:
    config, settings = _load_config(), make_settings(common)
    path = config.directory or Paths.from_home(settings.home).gateway
    return KeyDatabase(path, pepper_file=config.pepper_file)


def _load_config() -> GatewayConfig:
    """Load what the options, the environment and a file say about the gateway."""
    places = click.get_current_context().meta
    directory, file = places.get(f"{__name__}.directory"), places.get(f"{__name__}.config")
    config = load_config(file, {})
    if directory is None:
        return config
    try:
        return msgspec.structs.replace(config, directory=absolute_path(directory))
    except ValueError as error:
        raise click.UsageError(f"--dir is {directory!r}: {error}.") from error


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
        print_notice(sanitize_line(f"The audit log {file.path} is not written: {error}"))


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name, as in containers
        return str(os.getuid()) if sys.platform != "win32" else "unknown"


def _print_keys(common: GlobalOptions) -> None:
    database = _open_database(common)
    keys, now = database.list(), database.now()
    if common.as_json:
        print_json({"file": str(database.path), "keys": [key.describe(now) for key in keys]})
    elif keys:
        headers = ["ID", "NAME", "STATE", "SCOPES", "MODELS", "LIMITS", "EXPIRES"]
        print_table(headers, [_make_row(key, now) for key in keys])
    else:
        click.echo(sanitize_line(f"There are no keys in {database.path.parent}."))
        click.echo("Create one with `foundry-api keys create --name NAME`.")


def _read_used(database: KeyDatabase, key: ApiKey, now: float) -> dict[str, int] | None:
    """Return what a key has used of its limits; None if that cannot be read, which is reported."""
    path = database.path.with_name(BUDGET_FILE)
    try:
        return read_used(path, key, now)
    except (sqlite3.Error, OSError, ForeignFile, OtherFormat) as error:
        print_notice(sanitize_line(f"What the key has used cannot be read from {path}: {error}"))
        return None


def _format_limits(unit: str, limits: Sequence[Limit], used: Mapping[str, int] | None) -> str:
    texts = [
        f"{limit}" if used is None else f"{limit} ({used[f'{unit}/{limit.unit}']} used)"
        for limit in limits
    ]
    return ", ".join(texts) or "any number"


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
        print_json({"key": key.describe(time.time()), "token": token})
        return
    # The token alone on standard output, for `TOKEN=$(foundry-api keys create --name ci)`.
    print_notice(sanitize_line(f"The key {key.name} ({key.id}) {change}."))
    print_notice("Keep its token now; it cannot be shown again:")
    click.echo(token)


def _print_change(common: GlobalOptions, key: ApiKey, change: str) -> None:
    if common.as_json:
        print_json({"key": key.describe(time.time())})
    else:
        click.echo(sanitize_line(f"The key {key.name} ({key.id}) {change}."))


def _format_models(key: ApiKey) -> str:
    return "all" if key.models is None else ",".join(sorted(key.models))
