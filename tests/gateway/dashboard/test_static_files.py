"""The files of the page: what they are sent with, and that they need nothing else."""

from __future__ import annotations

import gzip
import hashlib
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.dashboard.static_files import DIRECTORY, VENDORED

if TYPE_CHECKING:
    import aiohttp

MAX_COMPRESSED_BYTES = 60_000
PATHS = {path.name: path for path in [*DIRECTORY.iterdir(), *VENDORED.glob("*.js")]}
FILES = sorted(path.name for path in DIRECTORY.iterdir())
# Of the files as their authors publish them; see the README next to them.
DIGESTS = {
    "preact-htm.js": "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
    "uplot.js": "68b885253b209b8d7ab39af600d6f4d8570e92b2848cb841414041e9a3fe37c9",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"
)


def get_url(name: str) -> str:
    return "/" if name == "index.html" else f"/assets/{name}"


async def test_files_are_sent_with_their_type_and_the_policy(http: aiohttp.ClientSession) -> None:
    kind = {"html": "text/html", "css": "text/css", "svg": "image/svg+xml", "js": "text/javascript"}
    for name, path in PATHS.items():
        async with http.get(get_url(name)) as response:
            assert response.status == 200
            assert response.content_type == kind[name.rpartition(".")[2]]
            assert response.headers["Content-Security-Policy"].startswith(POLICY)
            assert "unsafe" not in response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-cache"
            text = await response.text()
        assert text == path.read_text(encoding="utf-8")


async def test_a_browser_that_has_the_file_does_not_get_it_again(
    http: aiohttp.ClientSession,
) -> None:
    for encoding in ("gzip", "identity"):
        headers = {"Accept-Encoding": encoding}
        async with http.get("/", headers=headers) as response:
            tag = response.headers["ETag"]
        for known in (tag, f'"other", {tag}', "*"):
            async with http.get("/", headers={**headers, "If-None-Match": known}) as response:
                assert response.status == 304
                assert await response.read() == b""
        async with http.get("/", headers={**headers, "If-None-Match": '"other"'}) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    "path",
    ["/assets/junk.js", "/assets/index.html", "/assets/..%2fsign_in.py", "/assets/../sign_in.py"],
)
async def test_no_other_file_is_sent(http: aiohttp.ClientSession, path: str) -> None:
    from yarl import URL  # noqa: PLC0415 - the client would tidy the path up

    url = URL(f"{http._base_url}".rstrip("/") + path, encoded=True)
    async with http.get(url) as response:
        assert response.status == 404


def test_all_files_together_are_small() -> None:
    total = sum(len(gzip.compress(path.read_bytes())) for path in PATHS.values())
    assert total < MAX_COMPRESSED_BYTES


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_asked_of_other_hosts(name: str) -> None:
    text = (DIRECTORY / name).read_text(encoding="utf-8")
    urls = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'`]*", text))
    assert urls <= {"http://www.w3.org/2000/svg"}


def test_vendored_files_are_those_of_their_authors() -> None:
    readme = (VENDORED / "README.md").read_text(encoding="utf-8")
    digests: dict[str, str] = {}
    for path in VENDORED.iterdir():
        if path.suffix == ".js":
            # A checkout on Windows may have other line ends.
            content = path.read_bytes().replace(b"\r\n", b"\n")
            digests[path.name] = hashlib.sha256(content).hexdigest()
        assert path.name == "README.md" or path.name in readme
    assert digests == DIGESTS


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_texts_never_become_markup_or_code(name: str) -> None:
    text = (DIRECTORY / name).read_text(encoding="utf-8")
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    assert re.findall(sinks, text) == []


def test_modules_import_only_each_other() -> None:
    for name in FILES:
        if name.endswith(".js"):
            text = (DIRECTORY / name).read_text(encoding="utf-8")
            imported = set(re.findall(r"(?:from |import\()\"\./([\w.]+)\"", text))
            assert imported <= {*PATHS}, name
            assert len(text.splitlines()) <= 300, name


def test_the_page_has_no_inline_code() -> None:
    elements: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append((tag, dict(attrs)))

    Reader().feed((DIRECTORY / "index.html").read_text(encoding="utf-8"))
    for tag, attributes in elements:
        assert tag != "style"
        assert not any(name == "style" or name.startswith("on") for name in attributes)
        assert tag != "script" or attributes.get("src")
    linked = {
        value for _, one in elements for name, value in one.items() if name in {"src", "href"}
    }
    assert {link.removeprefix("/assets/") for link in linked if link} <= {*PATHS, "#main"}
