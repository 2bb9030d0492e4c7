"""Checks FOUNDRY_* variables: invalid values, and names that are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.user_config import load_user_config
from foundry_api.types.errors import ConfigurationError
from foundry_api.types.settings import (
    Settings,
    environment_variables,
    find_misspelt_variables,
)
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from foundry_api.cli.doctor.context import DiagnosticContext

__all__ = ["GROUP", "is_key_exposed", "make_usable_settings"]

BAD_SETTING = FindingKind("bad-setting", "problem", "A setting is invalid", "{hint}")
CREDENTIAL_IN_URL = FindingKind(
    "credential-in-url",
    "problem",
    "A URL contains a credential",
    "Remove it from {variable}, and set FOUNDRY_API_KEY instead: URLs end up in logs.",
)
TWO_ADDRESSES = FindingKind(
    "two-addresses",
    "problem",
    "Two settings name the service",
    "Unset FOUNDRY_BASE_URL or FOUNDRY_BASE_URLS.",
)
MISSPELLED = FindingKind(
    "misspelt-setting", "warning", "A variable looks like a misspelt setting", "Rename it: {meant}."
)
FOREIGN = FindingKind(
    "foreign-setting",
    "note",
    "A variable of another program is set",
    "foundry-api does not read it; if it is meant for foundry-api, set FOUNDRY_BASE_URL.",
)
KEY_OVER_HTTP = FindingKind(
    "key-in-the-clear",
    "problem",
    "The API key would be sent over the network unencrypted",
    "Use an https:// URL, or a tunnel to a loopback address. Nothing was sent.",
)
KEY_WITHOUT_ADDRESS = FindingKind(
    "key-without-address",
    "note",
    "The API key is not used",
    "Set FOUNDRY_BASE_URL: the key is sent to that service only.",
)
USABLE = FindingKind("settings-usable", "ok", "Settings are valid")

PREFIX = "FOUNDRY_"
# Variables of third-party programs; Microsoft's own programs read none of them.
FOREIGN_NAMES = frozenset(
    {"FOUNDRY_ENDPOINT", "FOUNDRY_HOST", "FOUNDRY_LOCAL_ENDPOINT", "FOUNDRY_LOCAL_URL"}
)


def make_usable_settings(
    environ: Mapping[str, str], *, names: Mapping[str, str] | None = None, **arguments: object
) -> Settings:
    """Make settings as `Settings.from_environment` does, but ignore invalid variables."""
    accepted = {
        name: value
        for name, value in _get_own_variables(environ).items()
        if not _get_setting_error(name, value)
    }
    if _has_two_addresses(accepted):
        del accepted["FOUNDRY_BASE_URLS"]
    return Settings.from_environment(accepted, names=names, **arguments)


def is_key_exposed(settings: Settings, url: str | None) -> bool:
    """Whether the API key would be sent over a network unencrypted."""
    return bool(settings.api_key and url and url.startswith("http:") and not is_loopback(url))


async def check_environment(context: DiagnosticContext) -> Iterable[Finding]:
    environ, settings = context.environ, context.settings
    findings = [*_check_values(environ), *_check_names(environ), *_check_file(environ)]
    findings += [
        KEY_OVER_HTTP.make_finding(f"an API key is set, and the URL of the service is {url}")
        for url in (settings.base_url, *settings.base_urls)
        if is_key_exposed(settings, url)
    ]
    if settings.api_key and not (settings.base_url or settings.base_urls):
        findings.append(KEY_WITHOUT_ADDRESS.make_finding("FOUNDRY_API_KEY is set, but no URL"))
    if any(finding.level == "problem" for finding in findings):
        return findings
    names = ", ".join(sorted(_get_own_variables(environ))) or "no FOUNDRY_* variable is set"
    return [*findings, USABLE.make_finding(names)]


def _check_values(environ: Mapping[str, str]) -> Iterable[Finding]:
    own = _get_own_variables(environ)
    for name, value in own.items():
        if (error := _get_setting_error(name, value)) is None:
            continue
        urls = (url if "://" in url else f"http://{url}" for url in value.split(","))
        if name.startswith("FOUNDRY_BASE_URL") and any("@" in urlsplit(url).netloc for url in urls):
            yield CREDENTIAL_IN_URL.make_finding(
                f"{name} contains a user name or a password", variable=name
            )
        else:
            evidence = error.message if name in error.message else f"{name}: {error.message}"
            yield BAD_SETTING.make_finding(evidence, hint=error.hint)
    if _has_two_addresses(own):
        yield TWO_ADDRESSES.make_finding("FOUNDRY_BASE_URL and FOUNDRY_BASE_URLS are both set")


def _check_file(environ: Mapping[str, str]) -> Iterable[Finding]:
    home = environ.get("FOUNDRY_HOME", "").strip()
    if home and _get_setting_error("FOUNDRY_HOME", home):
        return  # which is reported
    try:
        load_user_config(environ)
    except ConfigurationError as error:
        yield BAD_SETTING.make_finding(error.message, hint=error.hint)


def _check_names(environ: Mapping[str, str]) -> Iterable[Finding]:
    from foundry_api.gateway.config import PREFIX as GATEWAY_PREFIX  # noqa: PLC0415 - not at import
    from foundry_api.gateway.config import gateway_variables  # noqa: PLC0415 - only when it runs

    foreign = [name for name in sorted(environ) if name.upper() in FOREIGN_NAMES]
    for name in foreign:
        yield FOREIGN.make_finding(f"{name} is set")
    own = environ.keys() - foreign
    gateway = {name for name in own if name.upper().startswith(GATEWAY_PREFIX)}
    misspelt = {
        **find_misspelt_variables(own - gateway, environment_variables(), PREFIX),
        **find_misspelt_variables(gateway, gateway_variables(), GATEWAY_PREFIX),
    }
    for name, meant in misspelt.items():
        yield MISSPELLED.make_finding(f"{name} is set, but it is not a setting", meant=meant)


def _get_own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environ[name] for name in environment_variables() if environ.get(name, "").strip()
    }


def _get_setting_error(name: str, value: str) -> ConfigurationError | None:
    try:
        Settings.from_environment({name: value})
    except ConfigurationError as error:
        return error
    return None


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
