"""The documentation: its links lead somewhere, and its commands exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import foundry_api
from foundry_api.cli.verbs import VERBS
from foundry_api.types.events import EVENT_TYPES

CHECKOUT = Path(__file__).parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])


def get_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def get_name(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=get_name)
def test_links_to_files_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith(("http://", "https://", "mailto:"))]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=get_name)
def test_links_to_headings_lead_to_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^):\s]*\.md)?#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    targets = [(page.parent / file if file else page, anchor) for file, anchor in links]
    assert [(target, name) for target, name in targets if name not in get_anchors(target)] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    unread, reached = [CHECKOUT / "README.md"], set[Path]()
    while unread:
        page = unread.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^):#\s]+\.md)", page.read_text(encoding="utf-8"))
        unread += {(page.parent / link).resolve() for link in links} - reached - set(unread)
    assert [page for page in PAGES if page.parent.name == "docs" and page not in reached] == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    config = (CHECKOUT / "tools" / "docs_site" / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"([\w/-]+\.md)$", config, re.MULTILINE)
    pages = {page.name for page in PAGES if page.parent.name == "docs"}
    assert {name for name in listed if "/" not in name} == pages | {"index.md"}
    assert len(listed) == len(set(listed))


def test_the_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=get_name)
def test_verbs_of_the_command_line_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    verbs = set(re.findall(r"(?:^|`|\$ )foundry-api ([a-z][a-z-]*)\b", text, re.MULTILINE))
    assert verbs <= VERBS.keys()


def read_page(name: str) -> str:
    return (CHECKOUT / "docs" / name).read_text(encoding="utf-8")


def test_every_public_error_is_described() -> None:
    errors = {
        name: value
        for name in foundry_api.__all__
        if isinstance(value := getattr(foundry_api, name), type) and issubclass(value, Exception)
    }
    page = read_page("errors.md")
    wrong = [
        name
        for name, error in errors.items()
        if f"`{name}` | {' '.join((inspect.getdoc(error) or '').partition(chr(10) * 2)[0].split())}"
        not in page
    ]
    assert wrong == []


def test_every_event_and_metric_is_described() -> None:
    page = read_page("events-and-metrics.md")
    kinds = [kind.__name__ for kind in EVENT_TYPES]
    sources = ("observe/prometheus.py", "gateway/metrics.py", "gateway/upstreams/upstreams.py")
    package = Path(foundry_api.__file__).parent
    metrics = {
        name
        for source in sources
        for name in re.findall(r'"(foundry_\w+)"', (package / source).read_text(encoding="utf-8"))
    }
    assert len(metrics) > 20
    assert [name for name in (*kinds, *sorted(metrics)) if f"`{name}" not in page] == []
