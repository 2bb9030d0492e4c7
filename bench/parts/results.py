"""Keeps what was measured, for the table in the README."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


def keep(bench: str, figures: dict[str, float]) -> None:
    """Write the figures of a benchmark to `bench/results/`, and print them.

    Args:
        bench: Its name.
        figures: What was measured; each name says the unit.
    """
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    told = {
        "measured": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "figures": rounded,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{bench}.json"
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for name, value in rounded.items():
        print(f"{name:55} {value:g}")


def kept(bench: str) -> dict[str, float]:
    """The figures that were written last; none if there are none."""
    path = RESULTS / f"{bench}.json"
    if not path.exists():
        return {}
    figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return figures
