"""A builder with a fake in place of its Python: it runs fake_converter.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from foundry_api.model_import.builder import Builder
from support.cli_program import SOURCE

__all__ = ["FakeBuilder"]

CONVERTER = Path(__file__).with_name("fake_converter.py")


class FakeBuilder:
    """The builder of a home directory. Its runs are controlled with `set`."""

    def __init__(self, home: Path) -> None:
        self.builder = Builder.from_home(home)
        self.control = home / "fake.json"
        home.mkdir(parents=True, exist_ok=True)
        self.set()

    def set(self, **steps: Any) -> None:
        """Set what the steps do; see fake_converter.py."""
        self.control.write_text(json.dumps(steps), encoding="utf-8")

    def install(self) -> None:
        """Make it ready, as `Builder.set_up` does."""
        self.write_interpreter()
        (self.builder.directory / "installed").write_text(self.builder.recipe, encoding="utf-8")

    def write_interpreter(self, *_: object, **__: object) -> None:
        """Write a program that ignores the options of Python and runs the fake."""
        path = self.builder.interpreter
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"#!{sys.executable}\n"
            "import os, sys\n"
            f"os.environ.update(FAKE_CONVERTER={str(self.control)!r}, PYTHONPATH={SOURCE!r})\n"
            "arguments = sys.argv[sys.argv.index('utf8') + 2:]\n"
            f"os.execv({sys.executable!r}, [{sys.executable!r}, {str(CONVERTER)!r}, *arguments])\n",
            encoding="utf-8",
        )
        path.chmod(0o700)

    @property
    def runs(self) -> list[str]:
        """The steps that were run, in order."""
        return [line.split()[0] for line in self._read_log()]

    def has_ended(self) -> bool:
        """Whether the process of the last run is gone."""
        try:
            os.kill(int(self._read_log()[-1].split()[1]), 0)
        except ProcessLookupError:
            return True
        return False

    def _read_log(self) -> list[str]:
        path = self.control.with_suffix(".log")
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
