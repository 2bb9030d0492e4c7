"""Replaces the generated section of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def update_section(page: Path, name: str, text: str, arguments: Sequence[str]) -> int:
    """Write the text between `<!-- NAME -->` and `<!-- /NAME -->`, and return the exit code.

    With `--check` nothing is written, and a page that is out of date is reported.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before = page.read_text(encoding="utf-8")
    head, _, rest = before.partition(start)
    _, _, tail = rest.partition(end)
    after = head + start + text + end + tail
    if arguments == ["--check"]:
        if before != after:
            print(f"{page} is out of date: run `python3 dev.py generate`.")
        return int(before != after)
    page.write_text(after, encoding="utf-8", newline="\n")
    return 0
