"""The commands in the documentation: their verbs and options exist, and notes start with `#`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from foundry_api.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
# In a block, which is indented or fenced.
COMMAND = re.compile(r"^(?: {4}|\$ )?(?:[^|`#]*\| )?(foundry-api [^\n]*)$", re.MULTILINE)
PYTHON_BLOCK = re.compile(r"^```python\n.*?^```", re.MULTILINE | re.DOTALL)
NOTE = re.compile(r"\S {2,}(?!#|\\)\S")
# What a shell does with the rest of the line.
END_OF_COMMAND = re.compile(r"^(\||<|>|2>|>>|&|&&|;|\)\")$")


def find_commands() -> Iterator[Any]:
    for page in PAGES:
        text = PYTHON_BLOCK.sub("", page.read_text(encoding="utf-8")).replace("\\\n", " ")
        for match in COMMAND.finditer(text):
            yield pytest.param(match[1], id=f"{page.name}:{match[1][:50]}")


@pytest.mark.parametrize("line", [*find_commands()])
def test_a_command_has_the_verbs_and_options_that_it_is_shown_with(line: str) -> None:
    assert not NOTE.search(re.sub(r"(['\"]).*?\1", "''", line)), "a note starts with #"
    words: list[str] = []
    for word in shlex.split(line, comments=True)[1:]:
        if END_OF_COMMAND.match(word):
            break
        words.append(word)
    command: click.Command = root
    context = click.Context(root, info_name="foundry-api")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        child = command.get_command(context, name)
        assert child is not None, f"there is no command {name}"
        command, context = child, click.Context(child, parent=context, info_name=name)
    if words:
        command.make_parser(context).parse_args(words)


def test_the_documentation_has_commands() -> None:
    assert len([*find_commands()]) > 80
