#!/usr/bin/env python3
"""Write the table of clients into docs/gateway.md, as `python3 dev.py test --sdks` saw them.

python3 tools/draw_gateway_clients.py            after a run of these tests
python3 tools/draw_gateway_clients.py --check    only check that the table is up to date

The check also fails if the results are not those of the checks and the pinned versions that the
checkout has, so a changed pin or check needs a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from page_section import update_section

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from sdks.report import (  # noqa: E402 - after its path
    Outcome,
    Program,
    read_pinned_version,
    read_programs,
    read_results,
)

PAGE = ROOT / "docs" / "gateway.md"


def find_outdated(results: dict[str, dict[str, Outcome]]) -> list[str]:
    """Return the programs whose results are not those of their checks and pins."""
    return [
        program.name
        for program in read_programs()
        if set(results.get(program.name, {})) != set(program.checks)
        or (
            (version := read_pinned_version(program)) is not None
            and {outcome.version for outcome in results[program.name].values()} != {version}
        )
    ]


def format_row(program: Program, outcomes: dict[str, Outcome]) -> str:
    """Return the row of a client."""
    [version] = {outcome.version for outcome in outcomes.values()}
    calls = ", ".join(text for check, text in program.checks.items() if not outcomes[check].error)
    failed = ", ".join(text for check, text in program.checks.items() if outcomes[check].error)
    result = f"failed: {failed}" if failed else "passed"
    if program.limits:
        result += f"; {program.limits}"
    return f"| {program.client} {version} | {calls} | {result} |"


def format_table(results: dict[str, dict[str, Outcome]]) -> str:
    """Return the table in Markdown."""
    lines = ["| client | calls | result |", "|---|---|---|"]
    lines += [format_row(program, results[program.name]) for program in read_programs()]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """Write or check the table."""
    results = read_results()
    if outdated := find_outdated(results):
        print(f"{', '.join(outdated)}: not run since a change: run `python3 dev.py test --sdks`.")
        return 1
    return update_section(PAGE, "clients", format_table(results), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
