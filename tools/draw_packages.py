#!/usr/bin/env python3
"""Draw the packages of foundry_api and their imports into docs/architecture.md.

python3 tools/draw_packages.py            after a change of imports between packages
python3 tools/draw_packages.py --check    only check that the picture is up to date

The layers come from the import contract in pyproject.toml, the arrows from the imports themselves.
An arrow that follows from others is left out: cli imports types, but so does everything below it.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- packages -->\n", "<!-- /packages -->\n"
PURPOSES = {
    "cli": "the command line",
    "integrations": "llm, LangChain",
    "gateway": "the HTTP service in front of an engine",
    "client": "FoundryAPIClient, FoundryClient",
    "batch": "many requests",
    "monitor": "health over time",
    "model_import": "models of Hugging Face",
    "core": "how one call runs",
    "engine": "find or run Foundry Local",
    "wire": "bytes ↔ values",
    "testing": "a fake service for users' tests",
    "structured": "answers of a given type",
    "tools": "functions a model may call",
    "storage": "files that processes share",
    "resilience": "retry, breaker, limiter, time-outs",
    "observe": "log, metrics, formatting",
    "types": "values, results, errors, events, settings",
}


def read_layers() -> list[list[str]]:
    """Return the packages of each layer, the highest first."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = tool["importlinter"]["contracts"][0]["layers"]
    return [layer.replace("|", " ").replace(":", " ").split() for layer in layers]


def find_imports(packages: list[str]) -> dict[str, set[str]]:
    """Return which packages each package imports, without what follows from other imports."""
    graph = grimp.build_graph("foundry_api", cache_dir=None)
    for package in packages:
        graph.squash_module(f"foundry_api.{package}")
    direct = {
        package: {
            module.removeprefix("foundry_api.")
            for module in graph.find_modules_directly_imported_by(f"foundry_api.{package}")
        }
        & (set(packages) - {package})
        for package in packages
    }
    reachable: dict[str, set[str]] = {}
    for package in reversed(packages):  # the lowest layer first
        reachable[package] = direct[package].union(
            *(reachable.get(lower, set()) for lower in direct[package])
        )
    return {
        package: {
            lower
            for lower in direct[package]
            if not any(lower in reachable[other] for other in direct[package] - {lower})
        }
        for package in packages
    }


def draw() -> str:
    """Return the picture as a Mermaid graph."""
    layers = read_layers()
    # Within a layer, packages that import a sibling come before it.
    packages = [package for layer in layers for package in sorted(layer, reverse=True)]
    imports = find_imports(packages)
    lines = ["```mermaid", "graph TD"]
    for number, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        lines.append(f'    subgraph layer{number}[" "]')
        lines += [f'        {package}["{package}<br/>{PURPOSES[package]}"]' for package in layer]
        lines.append("    end")
    lines += [
        f"    {package} --> {' & '.join(sorted(imports[package]))}"
        for package in packages
        if imports[package]
    ]
    return "\n".join([*lines, "```", ""])


def main(arguments: list[str]) -> int:
    """Write the picture, or check it. Return the exit code."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    _, after = rest.split(END)
    text = f"{before}{START}{draw()}{END}{after}"
    if text == page:
        return 0
    if arguments:
        print(f"{PAGE.relative_to(ROOT)} is stale; run: python3 tools/draw_packages.py")
        return 1
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
