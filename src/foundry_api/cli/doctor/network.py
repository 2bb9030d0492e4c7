"""Checks the network: the loopback interface, and proxies."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.redact import strip_credential
from foundry_api.engine import discovery
from foundry_api.observe.format import format_duration
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from foundry_api.cli.doctor.context import DiagnosticContext

__all__ = ["GROUP", "get_proxies", "is_loopback_bypassed"]

LOOPBACK_OK = FindingKind(
    "loopback-open", "ok", "Programs on this machine can connect to each other"
)
LOOPBACK_BLOCKED = FindingKind(
    "loopback-blocked",
    "problem",
    "This machine cannot connect to itself",
    "Allow connections to 127.0.0.1 in the firewall or sandbox of this program.",
)
LOCALHOST_ELSEWHERE = FindingKind(
    "localhost-elsewhere",
    "problem",
    "`localhost` is not this machine",
    "Set `127.0.0.1 localhost` in the hosts file, or use 127.0.0.1 in URLs.",
)
PROXY_FOR_LOOPBACK = FindingKind(
    "proxy-for-loopback",
    "warning",
    "A proxy is set for services on this machine, too",
    "Set NO_PROXY=localhost,127.0.0.1,::1. foundry-api bypasses the proxy anyway; other programs"
    " use it for your local service, and fail.",
)
DEAD_PROXY = FindingKind(
    "dead-proxy",
    "problem",
    "A configured proxy is not running",
    "Start the proxy, or unset {variable}: model downloads and remote services fail with it.",
)
PROXY_IN_USE = FindingKind(
    "proxy-in-use", "note", "A proxy is used for remote services and the model catalog"
)

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
FOR_LOOPBACK = ("HTTP_PROXY", "ALL_PROXY")  # local services use plain http
CONNECT_TIMEOUT_S = 5.0
LOOPBACK_NAMES = ("localhost", "127.0.0.1")


def get_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies by the names of their variables; lower case wins."""
    by_name: dict[str, str] = {}
    for variable in PROXY_VARIABLES:
        for name in (variable.lower(), variable):
            if value := environ.get(name, "").strip():
                by_name[name] = value
                break
    return by_name


def is_loopback_bypassed(no_proxy: str) -> bool:
    """Whether NO_PROXY covers the names and addresses of this machine."""
    entries = [entry.strip().lower().lstrip(".") for entry in no_proxy.split(",")]

    def is_bypassed(name: str) -> bool:
        return any(
            entry.partition(":")[0] == name or _is_in_network(name, entry) for entry in entries
        )

    return "*" in entries or all(map(is_bypassed, LOOPBACK_NAMES))


def _is_in_network(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:  # one of them is a name
        return False


async def check_proxies(context: DiagnosticContext) -> Iterable[Finding]:
    environ = context.environ
    proxies = get_proxies(environ)
    if not proxies:
        return []
    descriptions = {name: f"{name}={strip_credential(value)}" for name, value in proxies.items()}
    findings = [PROXY_IN_USE.make_finding(", ".join(descriptions.values()))]
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    used = [descriptions[name] for name in proxies if name.upper() in FOR_LOOPBACK]
    if used and not is_loopback_bypassed(no_proxy):
        exceptions = f"NO_PROXY={no_proxy}" if no_proxy else "NO_PROXY is not set"
        findings.append(PROXY_FOR_LOOPBACK.make_finding(f"{', '.join(used)}; {exceptions}"))
    dead = await asyncio.gather(*map(_is_dead, proxies.values()))
    findings += [
        DEAD_PROXY.make_finding(f"{descriptions[name]}, where nothing listens", variable=name)
        for name, is_dead in zip(proxies, dead, strict=True)
        if is_dead
    ]
    return findings


async def _is_dead(proxy: str) -> bool:
    # Only proxies on this machine are tried: the doctor makes no connections to other machines.
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        is_local = is_loopback(url) and urlsplit(url).port is not None
    except ValueError:
        return False
    return is_local and not await discovery.is_open(url, CONNECT_TIMEOUT_S)


async def check_loopback(_: DiagnosticContext) -> Iterable[Finding]:
    def resolve() -> list[str]:
        try:
            found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return sorted({str(address[0]).partition("%")[0] for *_, address in found})

    addresses = await run_abandonable(resolve)
    elsewhere = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    if elsewhere or not addresses:
        return [
            LOCALHOST_ELSEWHERE.make_finding(f"localhost is {', '.join(elsewhere) or 'unknown'}")
        ]
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            port = await _connect_to_self()
    except OSError as error:  # a TimeoutError has no message
        reason = str(error) or f"no connection within {format_duration(CONNECT_TIMEOUT_S)}"
        return [LOOPBACK_BLOCKED.make_finding(f"127.0.0.1: {reason}")]
    return [
        LOOPBACK_OK.make_finding(f"127.0.0.1:{port} answered; localhost is {', '.join(addresses)}")
    ]


async def _connect_to_self() -> int:
    """Send a byte through the loopback interface, and return the port."""
    received = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        byte = await reader.read(1)
        writer.close()
        if not received.done():
            received.set_result(byte)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b".")
            await received
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
