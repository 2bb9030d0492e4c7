"""The servers that SDK 2.x downloads a model from, simulated on loopback (probed on 2.2.1).

The engine requests the container of a model from
`https://REGION.api.azureml.ms/modelregistry/…?assetId=`, a host that is fixed in its code, lists
the container like an Azure blob client, and downloads each file in ranges of 2 MiB, up to 64 at
once. It follows HTTPS_PROXY and SSL_CERT_FILE, so the registry here is a proxy that answers in the
registry's name, with a certificate of the tests.
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

# Self-signed for *.api.azureml.ms, with its key. Only engines of these tests trust it.
CERTIFICATE = Path(__file__).with_name("loopback_blobs.pem")

_CONTAINER = "/container/"
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Range:
    """A range of a file that the engine requested, including the last byte."""

    blob: str
    first: int
    last: int


@dataclass
class Site:
    """The content, the requests and the failures of the simulated servers.

    Attributes:
        files: The files of the container, by path.
        environ: The environment of the engine's process.
        requested_ranges: The ranges that were requested, in order; a test may empty it.
        breaks: Close the connection of a range that must wait, instead of keeping it open.
        missing: How many bytes less than announced a response has.
        pause_s: Pause between two pieces of 64 KiB.
        refused: Status of the registry's response; 200 for a container.
    """

    files: dict[str, bytes]
    environ: dict[str, str] = field(default_factory=dict)
    requested_ranges: list[Range] = field(default_factory=list)
    breaks: bool = False
    missing: int = 0
    pause_s: float = 0.0
    refused: int = 200
    _left: int = 10**9
    _change: threading.Condition = field(default_factory=threading.Condition)

    def serve_only(self, ranges: int) -> None:
        """Serve this number of ranges from now on; the others wait or break."""
        with self._change:
            self._left = ranges
            self._change.notify_all()

    def serve_all(self) -> None:
        self.serve_only(10**9)

    def may_serve(self) -> bool:
        """Wait until a range may be served; returns False if its connection must break."""
        with self._change:
            self._change.wait_for(lambda: self._left > 0 or self.breaks)
            self._left -= 1
            return self._left >= 0


@contextlib.contextmanager
def site(files: Mapping[str, bytes]) -> Iterator[Site]:
    """Run the servers."""
    site_state = Site(dict(files))
    with _serving(_Blobs, site_state) as container, _serving(_Registry, site_state) as registry:
        site_state.environ = {
            "HTTPS_PROXY": registry.url,
            "SSL_CERT_FILE": str(CERTIFICATE),
            "NO_PROXY": "",
        }
        registry.container = f"{container.url}{_CONTAINER.rstrip('/')}?sv=2021-08-06&sig=tests"
        yield site_state
        site_state.breaks = True
        site_state.serve_only(0)


class _Server(ThreadingHTTPServer):
    site: Site
    container: str
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a cancelled download breaks its connections."""


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], site_state: Site) -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), handler) as server:
        server.site = site_state
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
        all_headers = {"Content-Type": kind, "Content-Length": str(length)} | headers
        for name, value in all_headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


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
        self.head(
            200, len(self.server.site.files[blob]), "application/octet-stream", **_make_headers()
        )

    def _range(self, blob: str) -> None:
        site_state = self.server.site
        content = site_state.files[blob]
        first, last = map(int, self.headers["x-ms-range"].removeprefix("bytes=").split("-"))
        site_state.requested_ranges.append(Range(blob, first, last))
        if not site_state.may_serve():
            self.close_connection = True
            return
        part = content[first : last + 1]
        content_range = f"bytes {first}-{last}/{len(content)}"
        size = len(part) - site_state.missing
        self.head(
            206, size, "application/octet-stream", Content_Range=content_range, **_make_headers()
        )
        for start in range(0, size, _PIECE_BYTES):
            self.wfile.write(part[start : min(start + _PIECE_BYTES, size)])
            time.sleep(site_state.pause_s)

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


def _make_headers() -> dict[str, str]:
    # Without these, the engine's Azure client fails with `map::at` and no other message.
    return {
        "ETag": '"0x1"',
        "Last_Modified": _DATE,
        "x_ms_blob_type": "BlockBlob",
        "x_ms_creation_time": _DATE,
        "x_ms_server_encrypted": "true",
    }
