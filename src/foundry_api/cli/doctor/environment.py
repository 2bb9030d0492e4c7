"""Settings in the environment: values that cannot be used, and names that nobody reads."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import Settings, environment_variables
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from foundry_api.cli.doctor.machine import DiagnosticContext

__all__ = ["GROUP", "is_key_exposed", "make_usable_settings"]

BAD_SETTING = FindingKind("bad-setting", "problem", "A setting cannot be used", "{hint}")
CREDENTIAL_IN_URL = FindingKind(
    "credential-in-url",
    "problem",
    "An address carries a credential",
    "Take it out of {variable} and set FOUNDRY_API_KEY to it: addresses end up in logs.",
)
TWO_ADDRESSES = FindingKind(
    "two-addresses",
    "problem",
    "Two settings name the service",
    "Unset FOUNDRY_BASE_URL or FOUNDRY_BASE_URLS.",
)
MISSPELLED = FindingKind(
    "misspelt-setting", "warning", "A variable looks like a setting misspelt", "Rename it: {meant}."
)
FOREIGN = FindingKind(
    "foreign-setting",
    "note",
    "A variable of other programs is not read here",
    "If it is meant for foundry-api, set FOUNDRY_BASE_URL.",
)
KEY_OVER_HTTP = FindingKind(
    "key-in-the-clear",
    "problem",
    "The API key would cross the network unencrypted",
    "Use an https:// address, or a tunnel to a loopback one. Nothing was sent to it.",
)
KEY_WITHOUT_ADDRESS = FindingKind(
    "key-without-address",
    "note",
    "The API key is sent nowhere",
    "Set FOUNDRY_BASE_URL: the key goes to that service and to no other.",
)
USABLE = FindingKind("settings-usable", "ok", "Settings can be used")

PREFIX = "FOUNDRY_"
FOREIGN_NAMES = frozenset(
    {"FOUNDRY_ENDPOINT", "FOUNDRY_HOST", "FOUNDRY_LOCAL_ENDPOINT", "FOUNDRY_LOCAL_URL"}
)
"""Used ad hoc by third parties; none is Microsoft's."""
MIN_SIMILARITY = 0.75


def make_usable_settings(
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
    accepted = {
        name: value
        for name, value in _get_own_variables(environ).items()
        if not _find_refusal(name, value)
    }
    if _has_two_addresses(accepted):
        del accepted["FOUNDRY_BASE_URLS"]
    return Settings.from_environment(accepted, names=names, **arguments)


def is_key_exposed(settings: Settings, url: str | None) -> bool:
    """Whether a key would travel where others can read it."""
    return bool(settings.api_key and url and url.startswith("http:") and not is_loopback(url))


async def check_environment(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look at every FOUNDRY_* variable."""
    environ, settings = machine.environ, machine.settings
    findings = [*_check_values(environ), *_check_names(environ)]
    findings += [
        KEY_OVER_HTTP.make_finding(f"an API key is set, and the service's address is {url}")
        for url in (settings.base_url, *settings.base_urls)
        if is_key_exposed(settings, url)
    ]
    if settings.api_key and not (settings.base_url or settings.base_urls):
        findings.append(KEY_WITHOUT_ADDRESS.make_finding("FOUNDRY_API_KEY is set, and no address"))
    if any(finding.level == "problem" for finding in findings):
        return findings
    names = ", ".join(sorted(_get_own_variables(environ))) or "no FOUNDRY_* variable is set"
    return [*findings, USABLE.make_finding(names)]


def _check_values(environ: Mapping[str, str]) -> Iterable[Finding]:
    own = _get_own_variables(environ)
    for name, value in own.items():
        if (error := _find_refusal(name, value)) is None:
            continue
        if name.startswith("FOUNDRY_BASE_URL") and _has_credential(value):
            yield CREDENTIAL_IN_URL.make_finding(
                f"{name} has a user name or a password in it", variable=name
            )
        else:
            yield BAD_SETTING.make_finding(_describe_error(name, error), hint=error.hint)
    if _has_two_addresses(own):
        yield TWO_ADDRESSES.make_finding("FOUNDRY_BASE_URL and FOUNDRY_BASE_URLS are both set")


def _check_names(environ: Mapping[str, str]) -> Iterable[Finding]:
    known = environment_variables()
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX) or name in known:
            continue
        if name.upper() in FOREIGN_NAMES:
            yield FOREIGN.make_finding(f"{name} is set")
        elif meant := _find_nearest(name, known):
            yield MISSPELLED.make_finding(f"{name} is set, which nothing reads", meant=meant)


def _find_nearest(name: str, known: Iterable[str]) -> str | None:
    """The variable that was meant. The prefix that all share says nothing."""
    rests = [variable.removeprefix(PREFIX) for variable in known]
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), rests, 1, MIN_SIMILARITY)
    return PREFIX + near[0] if near else None


def _get_own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environ[name] for name in environment_variables() if environ.get(name, "").strip()
    }


def _find_refusal(name: str, value: str) -> ConfigurationError | None:
    try:
        Settings.from_environment({name: value})
    except ConfigurationError as error:
        return error
    return None


def _describe_error(name: str, error: ConfigurationError) -> str:
    return error.message if name in error.message else f"{name}: {error.message}"


def _has_credential(value: str) -> bool:
    urls = (url if "://" in url else f"http://{url}" for url in value.split(","))
    return any("@" in urlsplit(url).netloc for url in urls)


def _has_two_addresses(environ: Mapping[str, str]) -> bool:
    return {"FOUNDRY_BASE_URL", "FOUNDRY_BASE_URLS"} <= environ.keys()


GROUP = CheckGroup(
    "Settings",
    (check_environment,),
    (
        USABLE,
        BAD_SETTING,
        CREDENTIAL_IN_URL,
        TWO_ADDRESSES,
        KEY_OVER_HTTP,
        MISSPELLED,
        FOREIGN,
        KEY_WITHOUT_ADDRESS,
    ),
)
