"""Detects whether another user of this machine listens on a port."""

# On a machine with several users, anyone can listen on a port without authentication, and would
# then receive the prompts. Linux reports the user of each socket. Windows reports the process of
# each, as macOS does to an administrator.

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

__all__ = ["find_other_user"]

LISTENING = "0A"
SYSTEM_UID = 0

# An administrator's services are trusted: they could read this user's files and memory anyway.
SYSTEM_USERS = frozenset({"system", "local service", "network service", "root"})

LOCALHOST = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


def find_other_user(url: str) -> str | None:
    """Return the name or number of the other user that listens at a local address.

    None for this user, for the system's own services, and if the system does not report it.
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
        listeners = list(_iter_linux_listeners(port))
        uids: set[int] = set()
        for host in hosts:
            # A connection reaches the socket at its address, else one at the unspecified address.
            exact = {uid for address, uid in listeners if address == host}
            uids |= exact or {uid for address, uid in listeners if address.is_unspecified}
        return next((f"number {uid}" for uid in sorted(uids - own)), None)
    return _find_other_by_process(port)


def _iter_linux_listeners(port: int) -> Iterator[tuple[Address, int]]:
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:  # no IPv6, or the system hides the table
            continue
        for row in rows:
            fields = row.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == LISTENING and int(number, 16) == port:
                yield _parse_address(address), int(fields[7])


def _parse_address(text: str) -> Address:
    # The kernel prints an address as 32-bit words in the byte order of the machine.
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
            address = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not address or address.port != port:
                continue
            user = psutil.Process(connection.pid).username() if connection.pid else own
            if user != own and user.rpartition("\\")[2].lower() not in SYSTEM_USERS:
                return user
    except (psutil.Error, OSError):  # the system reports it to administrators only
        return None
    return None
