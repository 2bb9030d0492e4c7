"""Run a model folder in the real engine and call it over its REST service."""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foundry_local_sdk import (
    CatalogType,
    Configuration,
    FoundryLocalManager,
    ModelInfoBuilder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL_NAME = "demo"
MODEL_ID = f"{MODEL_NAME}:1"
TIME_LIMIT_S = 60.0
PREFIX = "/catalogs/local"


class Engine:
    """A loaded model behind its REST service. `load_s` is the time that loading took."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + PREFIX
        started = time.monotonic()
        self._call(f"/models/load/{MODEL_NAME}")
        self.load_s = time.monotonic() - started

    def answer(self, messages: list[dict[str, str]], **parameters: object) -> dict:
        """Return the chat completion of a conversation."""
        body = {"model": MODEL_ID, "messages": messages, **parameters}
        return self._call("/v1/chat/completions", body)

    def _call(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode("utf-8")
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers)
        with urllib.request.urlopen(request, timeout=TIME_LIMIT_S) as response:
            return json.load(response)


@contextmanager
def running_engine(model: Path) -> Iterator[Engine]:
    """Run the engine with the model in its local catalog."""
    with tempfile.TemporaryDirectory() as scratch:
        web = Configuration.WebService(urls="http://127.0.0.1:0")
        configuration = Configuration(
            "foundry-api-demo-check",
            app_data_dir=scratch,
            web=web,
            disable_nonessential_telemetry=True,
        )
        FoundryLocalManager.initialize(configuration)
        manager = FoundryLocalManager.instance
        try:
            metadata = ModelInfoBuilder()
            metadata.set_string_property("task", "chat-completion")
            manager.get_catalog(CatalogType.LOCAL).register_model(model, MODEL_ID, metadata)
            manager.start_web_service()
            yield Engine(manager.urls[0])
        finally:
            manager.stop_web_service()
            manager.close()
