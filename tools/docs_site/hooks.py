"""Hooks of MkDocs: the pages that are generated, and links that leave the documentation."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import diagrams

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "foundry_api"
# `python3 dev.py docs` names the Python that the project is installed in.
PYTHON = "FOUNDRY_API_PYTHON"

# The sections of the reference: the modules whose public names each has.
SECTIONS = {
    "Clients": ("client.", "core.options"),
    "Messages and results": ("types.messages", "types.results", "types.models", "types.capab"),
    "Structured output and tools": ("tools.",),
    "Batches": ("batch.",),
    "Models": ("core.catalog", "core.downloads", "core.residency", "model_import."),
    "Cache": ("core.cache.",),
    "Reliability": ("resilience.", "types.settings"),
    "Health": ("monitor.",),
    "Events and metrics": ("types.events", "observe."),
    "HTTP": ("wire.",),
    "Errors": ("types.errors", "types.access_errors"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page and the reference."""
    pages = {
        "index.md": make_start_page(),
        "reference/api.md": make_api_page(),
        "reference/commands.md": make_commands_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Replace diagrams by images, and links to files outside the documentation by text."""
    markdown = diagrams.replace_diagrams(markdown, page.file.src_uri)
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def make_start_page() -> str:
    """Return the README, whose links start at the root of the checkout."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\[([^\]]+)\]\((?:src/[^)]*|CONTRIBUTING\.md)\)", r"\1", text)


def make_api_page() -> str:
    """Return a page with every public name, by section."""
    remaining = read_public_names()
    lines = ["# API", "", "Everything that `foundry_api` exports.", ""]
    for title, prefixes in SECTIONS.items():
        modules = [module for module in remaining if module.startswith(prefixes)]
        lines += [f"## {title}", ""]
        for module in modules:
            for name in remaining.pop(module):
                lines += [f"::: foundry_api.{module}.{name}", ""]
    if remaining:
        raise SystemExit(f"SECTIONS has no place for {', '.join(remaining)}")
    return "\n".join(lines)


def read_public_names() -> dict[str, tuple[str, ...]]:
    """Return the public names by module, without importing the package."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_NAMES_BY_MODULE":
            names: dict[str, tuple[str, ...]] = ast.literal_eval(node.value)
            return names
    raise SystemExit("foundry_api/__init__.py has no _NAMES_BY_MODULE")


def make_commands_page() -> str:
    """Return the help of every command, as the program prints it."""
    done = subprocess.run(
        [os.environ[PYTHON], str(Path(__file__).with_name("print_help.py"))],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return done.stdout
