"""The `llm` program, with `extra-openai-models.yaml`.

`llm` can also run models without a gateway: [integrations.md](integrations.md).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from served import ADA, ANSWER, HELLO, KEY, QUESTION, SUM, SUM_ANSWER, URL

CLIENT = "llm"
CONFIGURATION = """
- model_id: {model}
  model_name: {model}
  api_base: "{url}/v1"
  api_key_name: foundry
  supports_tools: true
  supports_schema: true
  {more}
"""
FUNCTIONS = """
def calculate(expression: str) -> int:
    "Evaluate an arithmetic expression."
    first, _, second = expression.split()
    return int(first) * int(second)
"""


def run(model: str, *arguments: str, more: str = "") -> str:
    with tempfile.TemporaryDirectory() as home:
        configuration = CONFIGURATION.format(model=model, url=URL, more=more)
        Path(home, "extra-openai-models.yaml").write_text(configuration, encoding="utf-8")
        Path(home, "keys.json").write_text(json.dumps({"foundry": KEY}), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", model, *arguments],
            env={**os.environ, "LLM_USER_PATH": home},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def check_prompt() -> None:
    """prompt, stream"""
    assert run("demo", QUESTION, "-o", "temperature", "0") == ANSWER
    assert run("demo", QUESTION, "-o", "temperature", "0", "--no-stream") == ANSWER


def check_schema() -> None:
    """`--schema`"""
    schema = "born int, languages, name"
    answer = json.loads(run("demo", "Describe a person.", "--schema", schema))
    assert set(answer) == set(ADA)


def check_tools() -> None:
    """`--functions`"""
    answer = run("demo", SUM, "--functions", FUNCTIONS, "-o", "temperature", "0")
    assert answer.endswith(SUM_ANSWER)


def check_completion() -> None:
    """`completion: true`"""
    answer = run("scripted", "say-hello", "-o", "max_tokens", "50", more="completion: true")
    assert answer == HELLO
