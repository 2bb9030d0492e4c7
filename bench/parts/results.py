"""Store measured figures in bench/results, for the tables in docs/benchmarks.md."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "results"


def save_figures(bench: str, figures: dict[str, float]) -> None:
    """Print the figures of a benchmark and write them to `bench/results/`."""
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    result = {
        "measured": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "figures": rounded,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{bench}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, value in rounded.items():
        print(f"{name:55} {value:g}")


def load_figures(bench: str) -> dict[str, float]:
    """Return the figures that were written last, or an empty dict."""
    path = RESULTS / f"{bench}.json"
    if not path.exists():
        return {}
    figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return figures
