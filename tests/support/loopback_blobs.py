"""The sites that SDK 2.x downloads a model from, on loopback (probed on 2.2.1).

The engine asks `https://REGION.api.azureml.ms/modelregistry/…?assetId=` for the container of a
model, whose host is fixed in its code, lists the container as an Azure blob client does, and gets
each file in ranges of 2 MiB, up to 64 at once. It follows HTTPS_PROXY and SSL_CERT_FILE: so the
registry is a proxy here that answers in the registry's name, with a certificate of the tests.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RANGE_BYTES = 2 * 2**20
REGISTRY = ".api.azureml.ms:443"
CERTIFICATE = Path(__file__).with_name("loopback_blobs.pem")
"""Self-signed for *.api.azureml.ms, with its key. Nobody trusts it but an engine of these tests."""

_CONTAINER = "/container/"
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Range:
    """A part of a file that the engine asked for; the last byte counts."""

    blob: str
    first: int
    last: int


@dataclass
class Site:
    """What the sites hold, what they were asked, and what goes wrong with them.

    Attributes:
        files: The container, by the paths of the files in it.
        environ: For the process of the engine.
        asked: The ranges that were asked for, in order; a test may empty it.
        breaks: Break the connection of a range that may not be served, instead of holding it.
        missing: Bytes that a file has fewer than the listing and its head say.
        pause_s: Between two pieces of 64 KiB.
        refused: The registry's status; 200 for a container.
    """

    files: dict[str, bytes]
    environ: dict[str, str] = field(default_factory=dict)
    asked: list[Range] = field(default_factory=list)
    breaks: bool = False
    missing: int = 0
    pause_s: float = 0.0
    refused: int = 200
    _left: int = 10**9
    _change: threading.Condition = field(default_factory=threading.Condition)

    def serve_only(self, ranges: int) -> None:
        """Serve so many ranges from now on; the others wait, or break."""
        with self._change:
            self._left = ranges
            self._change.notify_all()

    def serve_all(self) -> None:
        """Serve whatever is asked and waits."""
        self.serve_only(10**9)

    def may_serve(self) -> bool:
        """Take leave for a range; waits for it unless connections break."""
        with self._change:
            self._change.wait_for(lambda: self._left > 0 or self.breaks)
            self._left -= 1
            return self._left >= 0


@contextlib.contextmanager
def site(files: Mapping[str, bytes]) -> Iterator[Site]:
    """The sites, while they serve."""
    held = Site(dict(files))
    with _serving(_Blobs, held) as container, _serving(_Registry, held) as registry:
        held.environ = {
            "HTTPS_PROXY": registry.url,
            "SSL_CERT_FILE": str(CERTIFICATE),
            "NO_PROXY": "",
        }
        registry.container = f"{container.url}{_CONTAINER.rstrip('/')}?sv=2021-08-06&sig=tests"
        yield held
        held.breaks = True
        held.serve_only(0)


class _Server(ThreadingHTTPServer):
    site: Site
    container: str
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Quiet: a client that cancels a download breaks its connections."""


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], held: Site) -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), handler) as server:
        server.site = held
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True

    def answer(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.head(status, len(body), kind, **headers)
        self.wfile.write(body)

    def head(self, status: int, length: int, kind: str, **headers: str) -> None:
        self.send_response(status)
        told = {"Content-Type": kind, "Content-Length": str(length)} | headers
        for name, value in told.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class _Registry(_Handler):
    def do_CONNECT(self) -> None:
        if not self.path.endswith(REGISTRY):  # such as telemetry
            self.answer(502, b"", "text/plain")
            return
        self.send_response(200)
        self.end_headers()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self.connection = self.request = context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)

    def do_GET(self) -> None:
        body = json.dumps({"blobSasUri": self.server.container}).encode()
        self.answer(self.server.site.refused, body, "application/json")
        self.close_connection = True

    def finish(self) -> None:
        super().finish()
        self.connection.close()


class _Blobs(_Handler):
    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if parse_qs(address.query).get("comp") == ["list"]:
            self.answer(200, self._listing().encode(), "application/xml")
        elif address.path.startswith(_CONTAINER):
            self._range(unquote(address.path.removeprefix(_CONTAINER)))

    def do_HEAD(self) -> None:
        blob = unquote(urlsplit(self.path).path.removeprefix(_CONTAINER))
        self.head(200, len(self.server.site.files[blob]), "application/octet-stream", **_facts())

    def _range(self, blob: str) -> None:
        held = self.server.site
        content = held.files[blob]
        first, last = map(int, self.headers["x-ms-range"].removeprefix("bytes=").split("-"))
        held.asked.append(Range(blob, first, last))
        if not held.may_serve():
            self.close_connection = True
            return
        part = content[first : last + 1]
        there = f"bytes {first}-{last}/{len(content)}"
        size = len(part) - held.missing
        self.head(206, size, "application/octet-stream", Content_Range=there, **_facts())
        for start in range(0, size, _PIECE_BYTES):
            self.wfile.write(part[start : min(start + _PIECE_BYTES, size)])
            time.sleep(held.pause_s)

    def _listing(self) -> str:
        blobs = "".join(
            f"<Blob><Name>{name}</Name><Properties><Last-Modified>{_DATE}</Last-Modified>"
            f"<Etag>0x1</Etag><Content-Length>{len(content)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name, content in self.server.site.files.items()
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="container">'
            f"<Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
        )


def _facts() -> dict[str, str]:
    """Headers that the engine's Azure client fails without, with `map::at` and nothing more."""
    return {
        "ETag": '"0x1"',
        "Last_Modified": _DATE,
        "x_ms_blob_type": "BlockBlob",
        "x_ms_creation_time": _DATE,
        "x_ms_server_encrypted": "true",
    }
