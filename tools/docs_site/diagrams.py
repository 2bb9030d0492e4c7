"""The diagrams of the documentation: Mermaid in the pages, and an SVG of each for the site.

The site must not load anything from a network, so the SVGs are in docs/diagrams. After a change:

    npm pack mermaid@11 && tar xzf mermaid-*.tgz
    python3 tools/docs_site/diagrams.py package/dist/mermaid.min.js

That needs Chromium. Building the site checks that each SVG is of the text in its page.
"""

from __future__ import annotations

import hashlib
import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
DIRECTORY = "diagrams"
BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

PAGE = """<!doctype html><meta charset="utf-8"><pre class="mermaid">{source}</pre>
<script>{library}</script>
<script>
mermaid.initialize({{
  startOnLoad: false, theme: "neutral", deterministicIds: true, htmlLabels: false,
}});
mermaid.run();
</script>
"""


def replace_diagrams(markdown: str, page: str) -> str:
    """Return a page with images instead of Mermaid. Raises SystemExit if one is out of date."""
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        name = make_name(page, count)
        path = DOCS / DIRECTORY / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if get_digest(match[1]) not in text:
            raise SystemExit(f"docs/{DIRECTORY}/{name} is not of the diagram in {page}: {__doc__}")
        return f"![Diagram {count} of this page]({DIRECTORY}/{name})"

    return BLOCK.sub(replace, markdown)


def make_name(page: str, number: int) -> str:
    return f"{Path(page).stem}-{number}.svg"


def get_digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def render(source: str, library: str, browser: str) -> str:
    """Return the SVG of a diagram."""
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory) / "page.html"
        page.write_text(PAGE.format(source=html.escape(source), library=library), encoding="utf-8")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=20000",
            f"--user-data-dir={directory}/profile",
            "--dump-dom",
        ]
        done = subprocess.run(
            [browser, *options, page.as_uri()],
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    drawn = re.search(r"<svg .*?</svg>(?=</pre>)", done.stdout, re.DOTALL)
    if drawn is None or "Syntax error" in drawn[0]:
        raise SystemExit(f"this diagram cannot be drawn:\n{source}")
    svg = drawn[0].replace("<br>", "<br/>")
    if 'xmlns="' not in svg.partition(">")[0]:
        svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    # As an image it has the size of its view box, on white also beside a dark page.
    svg = re.sub(r'^(<svg [^>]*?)width="100%"', r"\1", svg)
    svg = svg.replace('style="', 'style="background-color: white; ', 1)
    return f"<!-- sha256 of the source: {get_digest(source)} -->\n{svg}\n"


def main(library_path: str) -> None:
    """Draw the diagrams whose text has changed."""
    library = Path(library_path).read_text(encoding="utf-8").replace("</script", "<\\/script")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    (DOCS / DIRECTORY).mkdir(exist_ok=True)
    for page in sorted(DOCS.glob("*.md")):
        for number, source in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1):
            path = DOCS / DIRECTORY / make_name(page.name, number)
            if path.exists() and get_digest(source) in path.read_text(encoding="utf-8"):
                continue
            path.write_text(render(source, library, browser), encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main(sys.argv[1])
