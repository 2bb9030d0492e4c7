"""The engine as its SDK starts it, without the host of this package.

python bench/parts/shipped_engine.py DATA_DIRECTORY MODEL_DIRECTORY ALIAS

Prints the URL of the web service and runs until standard input ends.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def start(home: Path, model: Path, alias: str) -> Generator[tuple[str, int]]:
    """Run the engine in its own process; yield its URL and pid."""
    command = [sys.executable, __file__, str(home / "shipped"), str(model), alias]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdin is not None  # noqa: S101 - for type checkers
        assert process.stdout is not None  # noqa: S101 - for type checkers
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.stdin.close()
            process.terminate()


def main(data_directory: str, model_directory: str, alias: str) -> None:
    # Imported by name, because the SDK has no type information.
    sdk: Any = importlib.import_module("foundry_local_sdk")
    catalogs: Any = importlib.import_module("foundry_local_sdk.catalog")
    configuration = sdk.Configuration(
        "foundry-api-bench",
        app_data_dir=data_directory,
        logs_dir=data_directory,
        web=sdk.Configuration.WebService(urls="http://127.0.0.1:0"),
        disable_nonessential_telemetry=True,
    )
    sdk.FoundryLocalManager.initialize(configuration)
    manager = sdk.FoundryLocalManager.instance
    metadata = sdk.ModelInfoBuilder()
    metadata.set_string_property("task", "chat-completion")
    manager.get_catalog(catalogs.CatalogType.LOCAL).register_model(
        model_directory, f"{alias}:1", metadata
    )
    metadata.close()
    manager.start_web_service()
    print(manager.urls[0], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
