"""The documentation: its links lead somewhere, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foundry_api.cli.verbs import VERBS

CHECKOUT = Path(__file__).parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])


def get_name(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=get_name)
def test_links_to_files_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith(("http://", "https://", "mailto:"))]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=get_name)
def test_verbs_of_the_command_line_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    verbs = set(re.findall(r"(?:^|`|\$ )foundry-api ([a-z][a-z-]*)\b", text, re.MULTILINE))
    assert verbs <= VERBS.keys()
