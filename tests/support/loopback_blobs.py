"""A fake of the sites from which SDK 2.x downloads models (probed on 2.2.1).

The engine requests the container of a model from
`https://REGION.api.azureml.ms/modelregistry/…?assetId=`, a host that is fixed in its code. It lists
the container as an Azure blob client does, and requests each file in ranges of 2 MiB, up to 64
concurrently. As it honours HTTPS_PROXY and SSL_CERT_FILE, the fake registry is an HTTPS proxy that
answers for the real host with a test certificate.
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
"""A self-signed certificate for *.api.azureml.ms with its key, trusted only by test engines."""

_CONTAINER = "/container/"
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Range:
    """A requested part of a file, including the last byte."""

    blob: str
    first: int
    last: int


@dataclass
class FakeDownloadSite:
    """The files, the requests and the faults of the fake sites.

    Attributes:
        files: The contents of the container, by path.
        environ: Environment variables for the engine's process.
        requested_ranges: The requested ranges, in order; a test may clear it.
        drop_connections: Whether blocked ranges are disconnected instead of waiting.
        missing_bytes: Number of bytes that each response lacks.
        pause_s: Pause between two pieces of 64 KiB, in seconds.
        registry_status: The HTTP status of the registry; 200 returns the container.
    """

    files: dict[str, bytes]
    environ: dict[str, str] = field(default_factory=dict)
    requested_ranges: list[Range] = field(default_factory=list)
    drop_connections: bool = False
    missing_bytes: int = 0
    pause_s: float = 0.0
    registry_status: int = 200
    _remaining: int = 10**9
    _change: threading.Condition = field(default_factory=threading.Condition)

    def serve_only(self, ranges: int) -> None:
        """Serve this number of ranges; further ones wait or are disconnected."""
        with self._change:
            self._remaining = ranges
            self._change.notify_all()

    def serve_all(self) -> None:
        """Serve all waiting and future ranges."""
        self.serve_only(10**9)

    def wait_for_permission(self) -> bool:
        """Wait until a range may be served; return False if it is to be disconnected."""
        with self._change:
            self._change.wait_for(lambda: self._remaining > 0 or self.drop_connections)
            self._remaining -= 1
            return self._remaining >= 0


@contextlib.contextmanager
def run_download_site(files: Mapping[str, bytes]) -> Iterator[FakeDownloadSite]:
    """Run the fake sites until the end of the block."""
    site = FakeDownloadSite(dict(files))
    with _run_server(_Blobs, site) as container, _run_server(_Registry, site) as registry:
        site.environ = {
            "HTTPS_PROXY": registry.url,
            "SSL_CERT_FILE": str(CERTIFICATE),
            "NO_PROXY": "",
        }
        registry.container = f"{container.url}{_CONTAINER.rstrip('/')}?sv=2021-08-06&sig=tests"
        yield site
        site.drop_connections = True
        site.serve_only(0)


class _Server(ThreadingHTTPServer):
    site: FakeDownloadSite
    container: str
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors, as a client that cancels a download disconnects."""


@contextlib.contextmanager
def _run_server(handler: type[BaseHTTPRequestHandler], site: FakeDownloadSite) -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), handler) as server:
        server.site = site
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

    def send_body(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_head(status, len(body), kind, **headers)
        self.wfile.write(body)

    def send_head(self, status: int, length: int, kind: str, **headers: str) -> None:
        self.send_response(status)
        fields = {"Content-Type": kind, "Content-Length": str(length)} | headers
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class _Registry(_Handler):
    def do_CONNECT(self) -> None:
        if not self.path.endswith(REGISTRY):  # such as telemetry
            self.send_body(502, b"", "text/plain")
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
        self.send_body(self.server.site.registry_status, body, "application/json")
        self.close_connection = True

    def finish(self) -> None:
        super().finish()
        self.connection.close()


class _Blobs(_Handler):
    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if parse_qs(address.query).get("comp") == ["list"]:
            self.send_body(200, self._make_listing().encode(), "application/xml")
        elif address.path.startswith(_CONTAINER):
            self._send_range(unquote(address.path.removeprefix(_CONTAINER)))

    def do_HEAD(self) -> None:
        blob = unquote(urlsplit(self.path).path.removeprefix(_CONTAINER))
        self.send_head(
            200,
            len(self.server.site.files[blob]),
            "application/octet-stream",
            **_make_blob_headers(),
        )

    def _send_range(self, blob: str) -> None:
        site = self.server.site
        content = site.files[blob]
        first, last = map(int, self.headers["x-ms-range"].removeprefix("bytes=").split("-"))
        site.requested_ranges.append(Range(blob, first, last))
        if not site.wait_for_permission():
            self.close_connection = True
            return
        part = content[first : last + 1]
        content_range = f"bytes {first}-{last}/{len(content)}"
        size = len(part) - site.missing_bytes
        self.send_head(
            206,
            size,
            "application/octet-stream",
            Content_Range=content_range,
            **_make_blob_headers(),
        )
        for start in range(0, size, _PIECE_BYTES):
            self.wfile.write(part[start : min(start + _PIECE_BYTES, size)])
            time.sleep(site.pause_s)

    def _make_listing(self) -> str:
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


def _make_blob_headers() -> dict[str, str]:
    """Make the headers without which the engine's Azure client fails in `map::at`."""
    return {
        "ETag": '"0x1"',
        "Last_Modified": _DATE,
        "x_ms_blob_type": "BlockBlob",
        "x_ms_creation_time": _DATE,
        "x_ms_server_encrypted": "true",
    }
