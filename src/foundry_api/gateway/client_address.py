"""Addresses of clients, as limits count them."""

from __future__ import annotations

import ipaddress

__all__ = ["get_client_network"]

# What a provider gives to one customer, who may use each of its addresses.
IPV6_PREFIX = 64


def get_client_network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of an IPv6 address.

    An IPv6 address that stands for an IPv4 address is that one. What is not an address, such as
    the path of a socket, is returned as it is.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    # The link-local network is shared by all neighbours, and loopback by all programs.
    if ip.is_link_local or ip.is_loopback:
        return address
    return str(ipaddress.ip_network((int(ip), IPV6_PREFIX), strict=False))
