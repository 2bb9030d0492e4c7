"""Who listens on a port of this machine, where the system tells.

A port without authentication can be taken by anybody on a machine of many users, who would then get
the prompts. Linux tells the user of each socket; Windows, and macOS to an administrator, tell
which process has it.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

__all__ = ["find_other_user"]

LISTENING = "0A"
SYSTEM_UID = 0
SYSTEM_USERS = frozenset({"system", "local service", "network service", "root"})
"""An administrator's services are trusted: they could read this user's files and memory anyway."""

LOCALHOST = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


def find_other_user(url: str) -> str | None:
    """Return which other user of this machine listens at an address of it.

    Returns:
        A name or number; None for this user, for the system's own services, and where it cannot
        be told.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        hosts: tuple[Address, ...] = (ipaddress.ip_address(parts.hostname or ""),)
    except ValueError:
        if parts.hostname != "localhost":
            return None
        hosts = LOCALHOST
    if sys.platform == "linux":
        own = {SYSTEM_UID, os.geteuid()}
        uids = {uid for host in hosts for uid in _iter_closest(host, _iter_linux_listeners(port))}
        return next((f"number {uid}" for uid in sorted(uids - own)), None)
    return _find_other_by_process(port)


def _iter_closest(host: Address, listeners: Iterable[tuple[Address, int]]) -> Iterator[int]:
    """The users whose sockets a connection reaches: those at the address, else at any address."""
    known = list(listeners)
    exact = [uid for address, uid in known if address == host]
    yield from exact or (uid for address, uid in known if address.is_unspecified)


def _iter_linux_listeners(port: int) -> Iterator[tuple[Address, int]]:
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:  # a system without IPv6, or that hides it
            continue
        for row in rows:
            fields = row.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == LISTENING and int(number, 16) == port:
                yield _parse_address(address), int(fields[7])


def _parse_address(text: str) -> Address:
    """An address as the kernel prints it: words of 32 bits in the order of the machine's bytes."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _find_other_by_process(port: int) -> str | None:
    import psutil  # noqa: PLC0415 - Linux does without

    try:
        own = psutil.Process().username()
        for connection in psutil.net_connections(kind="tcp"):
            at = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not at or at.port != port:
                continue
            user = psutil.Process(connection.pid).username() if connection.pid else own
            if user != own and user.rpartition("\\")[2].lower() not in SYSTEM_USERS:
                return user
    except (psutil.Error, OSError):  # the system does not tell this user
        return None
    return None
