"""examples/notebook.ipynb runs in a real kernel, offline, and leaves no process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from service.helpers import list_hosts, wait_until

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def own_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Jupyter from writing to the developer's home."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def notebook() -> Any:
    return nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def run(cells: Any) -> None:
    client = NotebookClient(cells, timeout=60, resources={"metadata": {"path": str(EXAMPLES)}})
    client.execute()


def outputs(cells: Any) -> list[str]:
    """Return the output of each code cell."""
    cell_outputs: list[str] = []
    for cell in cells.cells:
        if cell.cell_type == "code":
            texts = [output.get("text") or output.data["text/plain"] for output in cell.outputs]
            cell_outputs.append("".join(texts))
    return cell_outputs


def test_notebook_runs(own_home: Path) -> None:
    cells = notebook()
    assert not any(output for output in outputs(cells)), "commit the notebook without outputs"

    run(cells)

    setup, capital, facts, story, review, capitals, closing = outputs(cells)
    assert "Paris" in capital
    assert "Usage(" in facts
    assert len(story) > 100
    assert review.startswith("Review(verdict='")
    assert [line.split()[-1] for line in capitals.splitlines()] == ["Paris.", "Rome.", "Tokyo."]
    assert (setup, closing) == ("", "")
    assert not list_hosts(own_home)


def test_engine_ends_with_the_kernel(own_home: Path) -> None:
    """A failing cell shows the error of this package."""
    cells = notebook()
    cells.cells = cells.cells[:4]  # not the one that closes
    hello = "client.complete('Hello', max_tokens=2)"
    cells.cells[-1].source = f"{hello}\nclient.complete('Hello', temperature=3)"

    with pytest.raises(CellExecutionError, match="temperature is 3, but must be from 0 to 2"):
        run(cells)

    wait_until(lambda: not list_hosts(own_home))
