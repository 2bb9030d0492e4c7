"""`/api/keys`: list, create, update, rotate, revoke and remove keys over HTTP.

A key with the scope `manage` gives nobody more rights than it has itself: it creates and changes
only keys with no further scopes and models, and with no later end. It does not end itself, so that
nobody is locked out by a slip. `foundry-api keys` on the gateway's machine has no such bounds. It
also creates the first key: without keys, any program of any user of the machine could send the
request for it, and lock the owner out.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from foundry_api.gateway.checks import make_invalid
from foundry_api.gateway.errors import RequestError, describe_error
from foundry_api.gateway.keys.errors import KeyNotFound, KeyStorageFailed
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
from foundry_api.gateway.keys.types import KeyChanges, NewKey, Scope
from foundry_api.types.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from aiohttp import web

    from foundry_api.gateway.context import GatewayContext
    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.keys.database import KeyDatabase
    from foundry_api.gateway.keys.types import ApiKey

__all__ = [
    "GraceBody",
    "NewKeyBody",
    "PermissionsBody",
    "create_key",
    "list_keys",
    "remove_key",
    "revoke_key",
    "rotate_key",
    "update_key",
]

DEFAULT_GRACE = "24h"

_T = TypeVar("_T")


class PermissionsBody(msgspec.Struct, kw_only=True):
    """The JSON body of `POST /api/keys/{id}/update`; what is left out stays as it is.

    The texts are those of `foundry-api keys`.

    Attributes:
        scopes: What it opens.
        models: Names of the models that it may use; null for all.
        expires: How long it is valid from now on, such as `90d`; null for ever.
        rate: Requests in a period, such as `60/m`; null for any number.
        tokens: Tokens in each of several periods, such as `2000/m` and `100000/d`.
        parallel: Calls that may run at the same time; null for any number.
        weight: Its share of a busy service, beside the weights of other keys.
    """

    scopes: tuple[Scope, ...] | msgspec.UnsetType = msgspec.UNSET
    models: tuple[str, ...] | msgspec.UnsetType | None = msgspec.UNSET
    expires: str | msgspec.UnsetType | None = msgspec.UNSET
    rate: str | msgspec.UnsetType | None = msgspec.UNSET
    tokens: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    parallel: int | msgspec.UnsetType | None = msgspec.UNSET
    weight: float | msgspec.UnsetType = msgspec.UNSET


class NewKeyBody(PermissionsBody, kw_only=True):
    """The JSON body of `POST /api/keys`. Without `scopes` it opens `inference`.

    Attributes:
        name: A name that no other key has.
    """

    name: str


class GraceBody(msgspec.Struct, kw_only=True):
    """The JSON body of `POST /api/keys/{id}/rotate`.

    Attributes:
        grace: How long the earlier token stays valid, such as `24h`; `0` ends it at once.
    """

    grace: str = DEFAULT_GRACE


async def list_keys(exchange: Exchange) -> web.StreamResponse:
    """List the keys with their limits, and what they have used of them."""
    context = exchange.context
    keys = sorted(context.keyring.keys, key=lambda key: (key.created_at, key.id))
    return exchange.respond_json({"keys": [_describe(context, key) for key in keys]})


async def create_key(exchange: Exchange) -> web.StreamResponse:
    """Create a key. Its token is in this answer only."""
    if exchange.key is None:
        raise RequestError(
            403,
            "no_keys",
            "There are no keys yet, and the first one shuts out everybody who lacks it, so no "
            "request creates it. The user who runs the gateway does: `foundry-api keys create "
            "--name admin --scope inference,manage,metrics`.",
        )
    body = await exchange.read_json(NewKeyBody)
    with _report_values():
        new = NewKey(name=check_key_name("name", body.name), **_read_permissions(body))
    now = exchange.context.keyring.now()
    ends_at = None if new.lifetime_s is None else now + new.lifetime_s
    _check_rights(exchange, new.scopes, new.models, ends_at)
    key, token = await _change(exchange, lambda database: database.create(new))
    exchange.target = f"{key.name} ({key.id})"
    return exchange.respond_json({"key": _describe(exchange.context, key), "token": token})


async def update_key(exchange: Exchange) -> web.StreamResponse:
    """Change what a key may do. Its token stays."""
    body = await exchange.read_json(PermissionsBody)
    with _report_values():
        changes = KeyChanges(**_read_permissions(body))
    key = await _find(exchange)
    now = exchange.context.keyring.now()
    changed = msgspec.structs.replace(key, **changes.get_members(now))
    _check_rights(exchange, changed.scopes, changed.models, changed.expires_at)
    if "manage" not in changed.scopes:
        _refuse_own(exchange, key, "Use another one to take the scope manage from it.")
    key = await _change(exchange, lambda database: database.update(key.id, changes))
    return exchange.respond_json({"key": _describe(exchange.context, key)})


async def rotate_key(exchange: Exchange) -> web.StreamResponse:
    """Give a key a new token. It is in this answer only."""
    body = await exchange.read_json(GraceBody)
    with _report_values():
        grace_s = parse_grace("grace", body.grace)
    key = await _find(exchange)
    if not grace_s:
        # The calls of a key whose token ends are ended, so the new token would be lost.
        _refuse_own(exchange, key, "Give its earlier token a time of grace.")
    key, token = await _change(exchange, lambda database: database.rotate(key.id, grace_s=grace_s))
    return exchange.respond_json({"key": _describe(exchange.context, key), "token": token})


async def revoke_key(exchange: Exchange) -> web.StreamResponse:
    """End a key and its running calls; it stays in the list."""
    key = await _find(exchange)
    _refuse_own(exchange, key, "Use another one to end it.")
    key = await _change(exchange, lambda database: database.revoke(key.id))
    return exchange.respond_json({"key": _describe(exchange.context, key)})


async def remove_key(exchange: Exchange) -> web.StreamResponse:
    """Delete a key; one that is in use ends at once."""
    key = await _find(exchange)
    _refuse_own(exchange, key, "Use another one to delete it.")
    await _change(exchange, lambda database: database.remove(key.id))
    return exchange.respond_json({"id": key.id, "removed": True})


def _read_permissions(body: PermissionsBody) -> dict[str, Any]:
    """Return the members of a key that a body sets."""
    return {
        member: parse(field, value)
        for field, (member, parse) in _PARSERS.items()
        if (value := getattr(body, field)) is not msgspec.UNSET
    }


def _parse_weight(field: str, weight: float) -> float:
    if not 0 < weight <= MAX_WEIGHT:
        raise make_invalid(field, f"{field} is not above 0 and at most {MAX_WEIGHT:g}.")
    return weight


def _unless_null(parse: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda field, value: None if value is None else parse(field, value)


# By the member of a body: that of a key, and its parser.
_PARSERS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "scopes": ("scopes", lambda field, names: parse_scopes(field, ",".join(names))),
    "models": ("models", _unless_null(lambda field, names: parse_models(field, ",".join(names)))),
    "expires": ("lifetime_s", _unless_null(parse_lifetime)),
    "rate": ("rate", _unless_null(lambda field, text: parse_limit(field, text, RATE_UNITS))),
    "tokens": (
        "tokens",
        lambda field, texts: parse_limits(field, ",".join(texts), TOKEN_UNITS) if texts else (),
    ),
    "parallel": (
        "parallel",
        _unless_null(lambda field, number: parse_parallel(field, str(number))),
    ),
    "weight": ("weight", _parse_weight),
}


async def _find(exchange: Exchange) -> ApiKey:
    """Return the key that the path names, if the caller may change it.

    Raises:
        RequestError: 404 without such a key, 403 if it has more rights than the caller.
    """
    keyring = exchange.context.keyring
    await keyring.reload()  # a command may have given it more rights
    for key in keyring.keys:
        if key.id == exchange.path_id:
            exchange.target = f"{key.name} ({key.id})"
            if key.get_state(keyring.now()) == "active":
                _check_rights(exchange, key.scopes, key.models, key.expires_at)
            return key
    raise _make_key_not_found()


def _check_rights(
    exchange: Exchange,
    scopes: frozenset[Scope],
    models: frozenset[str] | None,
    expires_at: float | None,
) -> None:
    """Refuse a key with more rights than that of the caller.

    Raises:
        RequestError: 403.
    """
    own = exchange.key
    if own is None:
        return
    if more := scopes - own.scopes:
        what = f"the scope {min(more)}, which this key lacks"
    elif own.models is not None and (models is None or models - own.models):
        what = "models that this key may not use"
    elif own.expires_at is not None and (expires_at is None or expires_at > own.expires_at):
        what = "a later end than this key"
    else:
        return
    raise RequestError(
        403,
        "insufficient_scope",
        f"The other key has {what}. Use one with these rights, or `foundry-api keys` on the "
        "machine of the gateway.",
    )


def _refuse_own(exchange: Exchange, key: ApiKey, hint: str) -> None:
    if exchange.key is not None and exchange.key.id == key.id:
        raise RequestError(409, "key_in_use", f"This request is made with that key. {hint}")


async def _change(exchange: Exchange, change: Callable[[KeyDatabase], _T]) -> _T:
    try:
        with _report_values():
            return await exchange.context.keyring.change(change)
    except KeyNotFound as error:  # removed meanwhile
        raise _make_key_not_found() from error
    except KeyStorageFailed as error:
        raise RequestError(
            503, "storage_failed", "The keys cannot be changed; the disk or its permissions fail."
        ) from error


@contextmanager
def _report_values() -> Generator[None]:
    """Report a wrong value under the name that it has in the body."""
    try:
        yield
    except InvalidRequest as error:
        raise RequestError(
            400, "invalid_value", describe_error(error), param=error.field
        ) from error


def _make_key_not_found() -> RequestError:
    return RequestError(404, "key_not_found", "There is no key with this id.", param="id")


def _describe(context: GatewayContext, key: ApiKey) -> dict[str, Any]:
    account = context.admission.accounts.get(key)
    now = context.keyring.now()
    budgets: list[dict[str, Any]] = []
    for name, budget in account.get_budgets().items():
        remaining, reset_s = budget.get_level(now)
        budgets.append(
            {
                "unit": name,
                "limit": budget.amount,
                "remaining": remaining,
                "reset_s": round(reset_s, 3),
            }
        )
    return {
        **key.describe(now),
        "running": account.running,
        "used_tokens": context.metrics.used_tokens.get(key.id, 0),
        "budgets": budgets,
    }
