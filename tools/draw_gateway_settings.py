#!/usr/bin/env python3
"""Write the table of the gateway's settings into docs/gateway.md.

python3 tools/draw_gateway_settings.py            after a change of GatewayConfig
python3 tools/draw_gateway_settings.py --check    only check that the table is up to date

Names and defaults come from the class, meanings from its docstring.
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

from foundry_api.gateway.config import PREFIX, GatewayConfig  # noqa: E402 - after its path

PAGE = ROOT / "docs" / "gateway.md"
FLAGS = {"model", "host", "port", "tls_cert", "tls_key", "insecure_http", "drain_s"}


def read_meanings() -> dict[str, str]:
    """Return the description of each setting."""
    _, _, text = (inspect.getdoc(GatewayConfig) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()).rstrip(".") for name, meaning in entries}


def format_default(value: object) -> str:
    """Write a default as in TOML."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def format_table() -> str:
    """Return the table in Markdown."""
    meanings = read_meanings()
    lines = [
        "| name in TOML | variable | flag | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for field in msgspec.structs.fields(GatewayConfig):
        name = field.name
        flag = f"`--{name.removesuffix('_s').replace('_', '-')}`" if name in FLAGS else ""
        lines.append(
            f"| `{name}` | `{PREFIX}{name.upper()}` | {flag} | {format_default(field.default)} "
            f"| {meanings[name]} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Write or check the table."""
    return update_section(PAGE, "settings", format_table(), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
