"""The examples and the facades in the root of the checkout run as the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = [
    "basic_usage.py",
    "batch_processing.py",
    "cache.py",
    "embeddings.py",
    "streaming.py",
    "structured_output.py",
    "sync_use.py",
    "tools.py",
]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program from another directory."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONUTF8": "1", **environment},
        cwd=os.environ["FOUNDRY_TEST_HOME"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_works_with_the_demo_model(name: str) -> None:
    done = run(str(ROOT / "examples" / name))

    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("model: demo\n")
    assert len(done.stdout) > 200


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("engine")
def test_example_reports_a_model_that_is_not_cached(name: str) -> None:
    """The model is that of FOUNDRY_MODEL, because --model is not given."""
    home = os.environ["FOUNDRY_TEST_HOME"]  # of an engine that runs: it starts none of its own
    done = run(str(ROOT / "examples" / name), FOUNDRY_MODEL="phi-4-mini", FOUNDRY_HOME=home)

    assert done.returncode == 1
    assert done.stdout.startswith("model: phi-4-mini\n")
    assert "--model demo` works now" in done.stderr
    assert "Traceback" not in done.stderr


def test_cache_example_sends_each_request_once() -> None:
    done = run(str(ROOT / "examples" / "cache.py"))

    lines = done.stdout.splitlines()
    assert lines[2].startswith("answered by the engine in ")
    assert lines[3].startswith("answered from the cache in ")
    assert "of 10 calls at once, 1 went to the engine" in lines
    second_run = run(str(ROOT / "examples" / "cache.py"))
    assert second_run.stdout.splitlines()[2].startswith("answered from the cache in ")
    assert "of 10 calls at once, 0 went to the engine" in second_run.stdout


def test_embeddings_example_finds_the_most_similar_note() -> None:
    done = run(str(ROOT / "examples" / "embeddings.py"))

    first = done.stdout.splitlines()[3]
    assert first.endswith("Paris is the capital of France.")


def test_production_example_survives_crashes_of_its_engine() -> None:
    done = run(str(ROOT / "examples" / "production.py"), "--seconds", "6", "--kill-every", "1.5")

    assert done.stderr == ""
    assert done.returncode == 0
    assert "engine killed (2)" in done.stdout
    assert "; 0 lost\n" in done.stdout
    assert " answered" in done.stdout.splitlines()[-1]


def test_facades_export_the_names_of_the_package() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import api_client, health_monitor, foundry_api\n"
        "assert api_client.FoundryAPIClient is foundry_api.FoundryAPIClient\n"
        "assert set(api_client.__all__) == set(foundry_api.__all__)\n"
        "assert health_monitor.HealthMonitor is foundry_api.HealthMonitor\n"
    )
    done = run("-I", "-c", script)

    assert (done.returncode, done.stderr) == (0, "")
