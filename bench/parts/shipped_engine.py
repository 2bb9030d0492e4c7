"""The engine as its SDK starts it, without the host of this package.

python bench/parts/shipped_engine.py DATA_DIRECTORY MODEL_DIRECTORY ALIAS

Prints the URL of the web service and runs until standard input ends.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


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
