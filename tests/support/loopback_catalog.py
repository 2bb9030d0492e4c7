"""A fake of Microsoft's model catalog on loopback (probed on the three SDKs).

SDK 2.2.1 sends `POST /` with `{filters, pageSize}` and expects `{"totalCount", "value": [entity]}`.
2.0.1 and 1.2.4 send `POST /entities/crossRegion` and expect it in `indexEntitiesResponse`. 1.2.4
ignores entities without a parent.
"""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from support.scripted_model import build as build_scripted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

VARIANT = "Scripted-mini-instruct-generic-cpu"
ALIAS = "scripted-mini"


TOOL_CALL_TAGS = {
    "supportsToolCalling": "true",
    "toolCallStart": "<tool_call>",
    "toolCallEnd": "</tool_call>",
}
"""The tags by which SDK 1.2.4 and 2.0.1 detect tool calls in an answer."""

REASONING_TAGS = {
    "supportsReasoning": "true",
    "reasoningStart": "<think>",
    "reasoningEnd": "</think>",
}
"""The tags by which SDK 2.2.1 separates the reasoning from the answer."""


def make_entity(
    alias: str,
    name: str,
    version: int = 1,
    *,
    size_mb: int = 1,
    task: str = "chat-completion",
    tags: Mapping[str, str] = TOOL_CALL_TAGS,
) -> dict[str, Any]:
    """Make the catalog entry of one variant of a model."""
    return {
        "assetId": f"azureml://registries/azureml/models/{name}/versions/{version}",
        "entityId": f"{name}:{version}",
        "annotations": {
            "tags": {"alias": alias, "task": task, **tags},
            "systemCatalogData": {
                "publisher": "tests",
                "displayName": name,
                "inferenceTasks": [task],
                "license": "MIT",
                "maxOutputTokens": 2048,
                "textContextWindow": 8192,
                "supportsToolCalling": True,
            },
        },
        "properties": {
            "id": f"{name}:{version}",
            "name": name,
            "version": version,
            "variantInfo": {
                "parents": [{"assetId": f"azureml://registries/azureml/models/{alias}/versions/1"}],
                "variantMetadata": {
                    "modelType": "ONNX",
                    "device": "cpu",
                    "executionProvider": "CPUExecutionProvider",
                    "fileSizeBytes": size_mb * 2**20,
                },
            },
            "creationContext": {"createdTime": "2026-01-01T00:00:00Z"},
        },
    }


def add_to_cache(
    cache: Path,
    name: str,
    version: int = 1,
    *,
    markers: bool = True,
    build: Callable[[Path], None] | None = None,
) -> None:
    """Write a model into the engine's cache, as if it had been downloaded.

    Args:
        cache: The engine's directory of models.
        name: The name of the variant.
        version: The version of the variant.
        markers: Whether its configuration has its markers, which SDK 1.2.4 cannot read.
        build: Writes the model; by default, the scripted chat model.
    """
    directory = cache / "tests" / f"{name}-{version}" / f"v{version}"
    directory.mkdir(parents=True)
    if build is None:
        build_scripted(directory, markers=markers)
    else:
        build(directory)
    metadata = {"Name": f"{name}:{version}", "PromptTemplate": None}
    (directory / "inference_model.json").write_text(json.dumps(metadata), encoding="utf-8")


@dataclass(frozen=True)
class FakeCatalog:
    """A running catalog.

    Attributes:
        url: Its URL.
        requests: The bodies of the requests.
    """

    url: str
    requests: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def run_catalog(entities: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Run a catalog until the end of the block; yield its URL."""
    with run_recording_catalog(entities) as catalog:
        yield catalog.url


@contextlib.contextmanager
def run_recording_catalog(
    entities: Sequence[dict[str, Any]], *, port: int = 0
) -> Iterator[FakeCatalog]:
    """Run a catalog until the end of the block, on a free port by default."""
    requests: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            requests.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            listing = {"totalCount": len(entities), "value": entities}
            is_older_sdk = self.path.endswith("/entities/crossRegion")
            response = {"indexEntitiesResponse": listing} if is_older_sdk else listing
            body = json.dumps(response).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield FakeCatalog(f"http://127.0.0.1:{server.server_port}", requests)
        finally:
            server.shutdown()
            thread.join()
