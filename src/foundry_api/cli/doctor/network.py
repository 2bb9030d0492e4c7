"""The way to a service: the loopback itself, and proxies that stand in it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.machine import run_abandonable
from foundry_api.cli.doctor.redact import strip_credential
from foundry_api.engine import discovery
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from foundry_api.cli.doctor.machine import DiagnosticContext

__all__ = ["GROUP", "get_proxies", "is_loopback_bypassed"]

LOOPBACK_OK = FindingKind("loopback-open", "ok", "Programs of this machine reach one another")
LOOPBACK_BLOCKED = FindingKind(
    "loopback-blocked",
    "problem",
    "This machine cannot connect to itself",
    "Allow connections to 127.0.0.1 in the firewall or sandbox that this program runs in.",
)
LOCALHOST_ELSEWHERE = FindingKind(
    "localhost-elsewhere",
    "problem",
    "`localhost` is not this machine",
    "Set `127.0.0.1 localhost` in the hosts file, or write 127.0.0.1 in addresses.",
)
PROXY_FOR_LOOPBACK = FindingKind(
    "proxy-for-loopback",
    "warning",
    "A proxy is set for this machine's own services too",
    "Set NO_PROXY=localhost,127.0.0.1,::1. foundry-api goes past the proxy anyway; other programs"
    " ask it for your local service, and fail.",
)
DEAD_PROXY = FindingKind(
    "dead-proxy",
    "problem",
    "A proxy is set that is not there",
    "Start the proxy, or unset {variable}: downloads of models and remote services need it gone.",
)
PROXY_IN_USE = FindingKind(
    "proxy-in-use", "note", "Remote services and the model catalog are reached through a proxy"
)

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
FOR_LOOPBACK = ("HTTP_PROXY", "ALL_PROXY")
"""Local services speak plain http."""
CONNECT_TIMEOUT_S = 5.0
LOOPBACK_NAMES = ("localhost", "127.0.0.1")


def get_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxies that are set, by the names of their variables. Lower case comes first."""
    by_name: dict[str, str] = {}
    for variable in PROXY_VARIABLES:
        for name in (variable.lower(), variable):
            if value := environ.get(name, "").strip():
                by_name[name] = value
                break
    return by_name


def is_loopback_bypassed(no_proxy: str) -> bool:
    """Whether NO_PROXY keeps programs from asking a proxy for this machine."""
    entries = [entry.strip().lower().lstrip(".") for entry in no_proxy.split(",")]
    return "*" in entries or all(_is_bypassed(name, entries) for name in LOOPBACK_NAMES)


def _is_bypassed(name: str, entries: Iterable[str]) -> bool:
    return any(entry.partition(":")[0] == name or _contains(entry, name) for entry in entries)


def _contains(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


async def check_proxies(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look at the proxies of the environment."""
    environ = machine.environ
    proxy_variables = get_proxies(environ)
    if not proxy_variables:
        return []
    descriptions = {
        name: f"{name}={strip_credential(value)}" for name, value in proxy_variables.items()
    }
    findings = [PROXY_IN_USE.make_finding(", ".join(descriptions.values()))]
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    taken = [name for name in proxy_variables if name.upper() in FOR_LOOPBACK]
    if taken and not is_loopback_bypassed(no_proxy):
        without = f"NO_PROXY={no_proxy}" if no_proxy else "NO_PROXY is not set"
        findings.append(
            PROXY_FOR_LOOPBACK.make_finding(
                f"{', '.join(descriptions[name] for name in taken)}; {without}"
            )
        )
    dead = await asyncio.gather(*(_is_dead(value) for value in proxy_variables.values()))
    findings += [
        DEAD_PROXY.make_finding(f"{descriptions[name]}, where nothing listens", variable=name)
        for name, is_dead in zip(proxy_variables, dead, strict=True)
        if is_dead
    ]
    return findings


async def _is_dead(proxy: str) -> bool:
    """Whether a proxy on this machine is not there. Others are not connected to unasked."""
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        known = is_loopback(url) and urlsplit(url).port is not None
    except ValueError:
        return False
    return known and not await discovery.is_open(url, CONNECT_TIMEOUT_S)


async def check_loopback(_: DiagnosticContext) -> Iterable[Finding]:
    """Connect to this process, and look up its name."""
    addresses = await run_abandonable(_resolve_localhost)
    elsewhere = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    if elsewhere or not addresses:
        return [
            LOCALHOST_ELSEWHERE.make_finding(f"localhost is {', '.join(elsewhere) or 'not known'}")
        ]
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            port = await _connect_to_self()
    except OSError as error:  # TimeoutError is one, and says nothing
        reason = str(error) or f"no connection within {CONNECT_TIMEOUT_S:g} s"
        return [LOOPBACK_BLOCKED.make_finding(f"127.0.0.1: {reason}")]
    return [
        LOOPBACK_OK.make_finding(f"127.0.0.1:{port} answered; localhost is {', '.join(addresses)}")
    ]


def _resolve_localhost() -> list[str]:
    try:
        addresses = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(address[0]).partition("%")[0] for *_, address in addresses})


async def _connect_to_self() -> int:
    """Send a byte through the loopback; the port it went to."""
    arrived = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        byte = await reader.read(1)
        writer.close()
        if not arrived.done():
            arrived.set_result(byte)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b".")
            await arrived
        finally:
            writer.close()
            await writer.wait_closed()
    return port


GROUP = CheckGroup(
    "Network",
    (check_loopback, check_proxies),
    (
        LOOPBACK_OK,
        LOOPBACK_BLOCKED,
        LOCALHOST_ELSEWHERE,
        PROXY_IN_USE,
        PROXY_FOR_LOOPBACK,
        DEAD_PROXY,
    ),
)
