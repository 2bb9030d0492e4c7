"""Run the web service of the foundry-local-sdk that is installed for this interpreter.

    python serve.py '{"home": …, "catalog_url": …}'

It writes one line, `{"url": …, "version": …, "pid": …}`, to its standard output, and exits at the
end of its standard input. It runs in environments without foundry_api, so it must not import it.
"""

from __future__ import annotations

import json
import locale
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import foundry_local_sdk as sdk


def make_configuration(home: Path, catalog_url: str, port: int, major: int) -> Any:
    """Configure a service on a port, 0 for any free one, with a catalog on loopback."""
    options: dict[str, Any] = (
        {"additional_settings": {"AzureCatalogUri": catalog_url}}
        if major == 1
        else {"catalog_urls": [(catalog_url, None)], "disable_nonessential_telemetry": True}
    )
    return sdk.Configuration(
        "foundry-api-tests",
        app_data_dir=str(home),
        model_cache_dir=str(home / "cache"),
        logs_dir=str(home / "logs"),
        web=sdk.Configuration.WebService(urls=f"http://127.0.0.1:{port}"),
        **options,
    )


def main() -> None:
    """Serve until the end of standard input."""
    arguments = json.loads(sys.argv[1])
    parent = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the output of the engine goes to the log
    if sys.platform == "win32":  # as in `NativeEngine.start`
        locale.setlocale(locale.LC_CTYPE, ".UTF-8")
    installed = version("foundry-local-sdk")
    settings = make_configuration(
        Path(arguments["home"]), arguments["catalog_url"], arguments["port"], int(installed[0])
    )
    sdk.FoundryLocalManager.initialize(settings)
    manager = sdk.FoundryLocalManager.instance
    manager.start_web_service()
    # On Windows, the process that was started is only the launcher of the environment.
    announced = {"url": manager.urls[0], "version": installed, "pid": os.getpid()}
    parent.write(json.dumps(announced) + "\n")
    parent.close()
    while os.read(0, 4096):
        continue
    os._exit(0)  # the engine's shutdown takes seconds, and there is nothing to save


if __name__ == "__main__":
    main()
