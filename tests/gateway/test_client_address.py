"""What counts as one client."""

from __future__ import annotations

import pytest

from foundry_api.gateway.client_address import get_client_network


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::1", "::1"),
        ("/run/gateway.sock", "/run/gateway.sock"),
        ("", ""),
    ],
)
def test_a_client_is_an_ipv4_address_or_a_network(address: str, network: str) -> None:
    assert get_client_network(address) == network
