"""Settings in the environment: values that cannot be used, and names that nobody reads."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundry_api.cli.doctor.finding import Finding, Group, Kind
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import Settings, variables
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from foundry_api.cli.doctor.machine import Machine

__all__ = ["GROUP", "in_the_clear", "usable_settings"]

BAD_SETTING = Kind("bad-setting", "problem", "A setting cannot be used", "{hint}")
CREDENTIAL_IN_URL = Kind(
    "credential-in-url",
    "problem",
    "An address carries a credential",
    "Take it out of {variable} and set FOUNDRY_API_KEY to it: addresses end up in logs.",
)
TWO_ADDRESSES = Kind(
    "two-addresses",
    "problem",
    "Two settings name the service",
    "Unset FOUNDRY_BASE_URL or FOUNDRY_BASE_URLS.",
)
MISSPELT = Kind(
    "misspelt-setting", "warning", "A variable looks like a setting misspelt", "Rename it: {meant}."
)
FOREIGN = Kind(
    "foreign-setting",
    "note",
    "A variable of other programs is not read here",
    "If it is meant for foundry-api, set FOUNDRY_BASE_URL.",
)
KEY_IN_THE_CLEAR = Kind(
    "key-in-the-clear",
    "problem",
    "The API key would cross the network unencrypted",
    "Use an https:// address, or a tunnel to a loopback one. Nothing was sent to it.",
)
KEY_WITHOUT_ADDRESS = Kind(
    "key-without-address",
    "note",
    "The API key is sent nowhere",
    "Set FOUNDRY_BASE_URL: the key goes to that service and to no other.",
)
USABLE = Kind("settings-usable", "ok", "Settings can be used")

PREFIX = "FOUNDRY_"
FOREIGN_NAMES = frozenset(
    {"FOUNDRY_ENDPOINT", "FOUNDRY_HOST", "FOUNDRY_LOCAL_ENDPOINT", "FOUNDRY_LOCAL_URL"}
)
"""Used ad hoc by third parties; none is Microsoft's."""
LIKENESS = 0.75


def usable_settings(
    environ: Mapping[str, str], *, names: Mapping[str, str] | None = None, **arguments: object
) -> Settings:
    """Settings without those variables that cannot be used, so that the rest can be looked at.

    Args:
        environ: The environment.
        names: What the caller calls an argument, where that is not the setting's name.
        arguments: Settings by their names; None counts as not given.

    Raises:
        ConfigurationError: An argument cannot be used.
    """
    kept = {name: value for name, value in _own(environ).items() if not _refusal(name, value)}
    if _two_addresses(kept):
        del kept["FOUNDRY_BASE_URLS"]
    return Settings.from_environment(kept, names=names, **arguments)


def in_the_clear(settings: Settings, url: str | None) -> bool:
    """Whether a key would travel where others can read it."""
    return bool(settings.api_key and url and url.startswith("http:") and not is_loopback(url))


async def examine(machine: Machine) -> Iterable[Finding]:
    """Look at every FOUNDRY_* variable."""
    environ, settings = machine.environ, machine.settings
    found = [*_values(environ), *_names(environ)]
    found += [
        KEY_IN_THE_CLEAR.seen(f"an API key is set, and the service's address is {url}")
        for url in (settings.base_url, *settings.base_urls)
        if in_the_clear(settings, url)
    ]
    if settings.api_key and not (settings.base_url or settings.base_urls):
        found.append(KEY_WITHOUT_ADDRESS.seen("FOUNDRY_API_KEY is set, and no address"))
    if any(finding.level == "problem" for finding in found):
        return found
    told = ", ".join(sorted(_own(environ))) or "no FOUNDRY_* variable is set"
    return [*found, USABLE.seen(told)]


def _values(environ: Mapping[str, str]) -> Iterable[Finding]:
    own = _own(environ)
    for name, value in own.items():
        if (error := _refusal(name, value)) is None:
            continue
        if name.startswith("FOUNDRY_BASE_URL") and _has_credential(value):
            yield CREDENTIAL_IN_URL.seen(
                f"{name} has a user name or a password in it", variable=name
            )
        else:
            yield BAD_SETTING.seen(_about(name, error), hint=error.hint)
    if _two_addresses(own):
        yield TWO_ADDRESSES.seen("FOUNDRY_BASE_URL and FOUNDRY_BASE_URLS are both set")


def _names(environ: Mapping[str, str]) -> Iterable[Finding]:
    known = variables()
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX) or name in known:
            continue
        if name.upper() in FOREIGN_NAMES:
            yield FOREIGN.seen(f"{name} is set")
        elif meant := _nearest(name, known):
            yield MISSPELT.seen(f"{name} is set, which nothing reads", meant=meant)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The variable that was meant. The prefix that all share says nothing."""
    rests = [variable.removeprefix(PREFIX) for variable in known]
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), rests, 1, LIKENESS)
    return PREFIX + near[0] if near else None


def _own(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in variables() if environ.get(name, "").strip()}


def _refusal(name: str, value: str) -> ConfigurationError | None:
    try:
        Settings.from_environment({name: value})
    except ConfigurationError as error:
        return error
    return None


def _about(name: str, error: ConfigurationError) -> str:
    return error.message if name in error.message else f"{name}: {error.message}"


def _has_credential(value: str) -> bool:
    urls = (url if "://" in url else f"http://{url}" for url in value.split(","))
    return any("@" in urlsplit(url).netloc for url in urls)


def _two_addresses(environ: Mapping[str, str]) -> bool:
    return {"FOUNDRY_BASE_URL", "FOUNDRY_BASE_URLS"} <= environ.keys()


GROUP = Group(
    "Settings",
    (examine,),
    (
        USABLE,
        BAD_SETTING,
        CREDENTIAL_IN_URL,
        TWO_ADDRESSES,
        KEY_IN_THE_CLEAR,
        MISSPELT,
        FOREIGN,
        KEY_WITHOUT_ADDRESS,
    ),
)
