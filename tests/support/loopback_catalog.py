"""A model catalog on loopback that speaks as Microsoft's does to each SDK (probed on all three).

SDK 2.2.1 asks `POST /` with `{filters, pageSize}` and takes `{"totalCount", "value": [entity]}`;
2.0.1 and 1.2.4 ask `POST /entities/crossRegion` and take that within `indexEntitiesResponse`. 1.2.4
drops entities without a parent.
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


CALLS_TOOLS = {
    "supportsToolCalling": "true",
    "toolCallStart": "<tool_call>",
    "toolCallEnd": "</tool_call>",
}
"""The tags by which SDK 1.2.4 and 2.0.1 find tool calls in what a model says."""

REASONS = {
    "supportsReasoning": "true",
    "reasoningStart": "<think>",
    "reasoningEnd": "</think>",
}
"""The tags by which SDK 2.2.1 tells reasoning from the answer."""


def entity(
    alias: str,
    name: str,
    version: int = 1,
    *,
    size_mb: int = 1,
    task: str = "chat-completion",
    tags: Mapping[str, str] = CALLS_TOOLS,
) -> dict[str, Any]:
    """One variant of a model, as the catalog describes it."""
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


def put_into_cache(
    cache: Path,
    name: str,
    version: int = 1,
    *,
    markers: bool = True,
    build: Callable[[Path], None] | None = None,
) -> None:
    """Lay a model where the engine keeps what it downloaded.

    Args:
        cache: The engine's directory of models.
        name: Of the variant.
        version: Of the variant.
        markers: Whether its configuration names its markers, which SDK 1.2.4 cannot read.
        build: Writes another model than the one that chats.
    """
    directory = cache / "tests" / f"{name}-{version}" / f"v{version}"
    directory.mkdir(parents=True)
    if build is None:
        build_scripted(directory, markers=markers)
    else:
        build(directory)
    about = {"Name": f"{name}:{version}", "PromptTemplate": None}
    (directory / "inference_model.json").write_text(json.dumps(about), encoding="utf-8")


@dataclass(frozen=True)
class Served:
    """A catalog that serves.

    Attributes:
        url: Where.
        asked: The bodies of the requests.
    """

    url: str
    asked: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def catalog(entities: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A catalog's URL, while it serves."""
    with serving(entities) as served:
        yield served.url


@contextlib.contextmanager
def serving(entities: Sequence[dict[str, Any]], *, port: int = 0) -> Iterator[Served]:
    """A catalog, while it serves, on a port of its own choice without one."""
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            listing = {"totalCount": len(entities), "value": entities}
            older = self.path.endswith("/entities/crossRegion")
            told = {"indexEntitiesResponse": listing} if older else listing
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{server.server_port}", asked)
        finally:
            server.shutdown()
            thread.join()
