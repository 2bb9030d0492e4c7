#!/usr/bin/env python3
"""Write the tables of the gateway's settings into docs/gateway.md and docs/gateway-upstreams.md.

python3 tools/draw_gateway_settings.py            after a change of GatewayConfig or UpstreamConfig
python3 tools/draw_gateway_settings.py --check    only check that the table is up to date

Names and defaults come from the classes, meanings from their docstrings.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import msgspec
from page_section import update_section

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from foundry_api.gateway.config import PREFIX, TABLES, GatewayConfig  # noqa: E402 - after its path
from foundry_api.gateway.upstreams.config import UpstreamConfig  # noqa: E402 - as above

PAGE = ROOT / "docs" / "gateway.md"
UPSTREAMS_PAGE = ROOT / "docs" / "gateway-upstreams.md"
FLAGS = {"model", "host", "port", "tls_cert", "tls_key", "insecure_http", "drain_s"}


def read_meanings(settings: type) -> dict[str, str]:
    """Return the description of each setting."""
    _, _, text = (inspect.getdoc(settings) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()).rstrip(".") for name, meaning in entries}


def format_default(value: object) -> str:
    """Write a default as in TOML."""
    if value is None or value == () or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def format_table() -> str:
    """Return the table in Markdown."""
    meanings = read_meanings(GatewayConfig)
    lines = [
        "| name in TOML | variable | flag | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for field in msgspec.structs.fields(GatewayConfig):
        name = field.name
        flag = f"`--{name.removesuffix('_s').replace('_', '-')}`" if name in FLAGS else ""
        variable = "" if name in TABLES else f"`{PREFIX}{name.upper()}`"
        lines.append(
            f"| `{name}` | {variable} | {flag} | {format_default(field.default)} "
            f"| {meanings[name]} |"
        )
    return "\n".join([*lines, ""])


def format_upstream_table() -> str:
    """Return the table of the settings of an upstream."""
    meanings = read_meanings(UpstreamConfig)
    lines = ["| name in TOML | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{field.name}` | {format_default(field.default)} | {meanings[field.name]} |"
        for field in msgspec.structs.fields(UpstreamConfig)
    ]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Write or check the tables."""
    return max(
        update_section(PAGE, "settings", format_table(), arguments),
        update_section(UPSTREAMS_PAGE, "settings", format_upstream_table(), arguments),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
