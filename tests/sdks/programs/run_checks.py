"""Run the checks of a program, and print a line of JSON for each.

It runs in the environment of a client, with the client's packages and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def main(path: Path) -> None:
    output = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # what clients print is not for the report
        program = importlib.import_module(path.stem)
        try:
            client_version = version(program.CLIENT)
        except PackageNotFoundError:
            client_version = program.get_version()
        for name, check in list(vars(program).items()):
            if not name.startswith("check_"):
                continue
            error = ""
            try:
                if inspect.iscoroutinefunction(check):
                    asyncio.run(check())
                else:
                    check()
            except Exception:  # noqa: BLE001 - it is reported
                error = traceback.format_exc()
            report = {"check": name, "error": error, "version": client_version}
            print(json.dumps(report), file=output, flush=True)


main(Path(sys.argv[1]))
