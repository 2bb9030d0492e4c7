"""mypy checks the Python code in the documentation, with the project's configuration.

The blocks are fragments, such as a call on a `client` that an earlier block made:
tests/support/docs_names.py has the names that they take as given. tests/test_tutorial.py,
tests/test_openai_sdk.py and tests/sdks run the whole programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
NAMES = CHECKOUT / "tests" / "support" / "docs_names.py"
ERROR = re.compile(r"([^/\\\n]+)\.py:(\d+): error: (.+)")

# In place of a page's title and the empty line after it.
HEADER = [
    "# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code=empty-body",
    "from docs_names import *",
]

# Not installed here, or slow to check. The tests named above run the code that uses them.
FOREIGN_PACKAGES = ("anthropic", "langchain_openai", "litellm", "openai", "pydantic_ai")

# mypy must find an error in each line of the block.
MISTAKES = """\
# Mistakes

- In a list:

  ```python
  await client.complete("Hello", max_tokens="500")
  await client.complete("Hello", max_token=500)
  client.models.lod
  no_such_name
  from foundry_api import NoSuchName
  from foundry_api.no_such_module import Name
  (await client.complete("Hello", response_model=Review)).parsed.name
  ```
"""


def extract_code(text: str) -> list[str]:
    """Make a module of a page. Its blocks are functions, and in the same lines as in the page."""
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start())
        code = textwrap.indent(textwrap.dedent(block[1]), "    ").splitlines()
        lines[first : first + 1 + len(code)] = [f"async def block_{first}() -> None:", *code]
    return [*HEADER, *lines[len(HEADER) :]]


@pytest.mark.timeout(900)  # without a cache, on a busy machine
def test_mypy_finds_no_error_in_the_documentation(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="it checks the types")
    texts = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
    for name, text in {**texts, "mistakes": MISTAKES}.items():
        code = "\n".join(extract_code(text))
        (tmp_path / f"{name}-md.py").write_text(f"{code}\n", encoding="utf-8")
    for name in FOREIGN_PACKAGES:
        (tmp_path / name).mkdir()
        stub = "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n"
        (tmp_path / name / "__init__.pyi").write_text(stub, encoding="utf-8")

    # It shares the cache of `dev.py lint`, after which only the pages are new to it.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-color-output", NAMES, *tmp_path.glob("*-md.py")],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
        encoding="utf-8",
    )

    found = ERROR.findall(done.stdout)
    errors = [
        f"{name.replace('-md', '.md')}:{line}: {message}"
        for name, line, message in found
        if name != "mistakes-md"
    ]
    assert not errors, "\n".join(errors)
    lines = {int(line) for _, line, _ in found}
    assert lines == {6, 7, 8, 9, 10, 11, 12}, done.stdout + done.stderr
