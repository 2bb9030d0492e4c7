"""The gateways that the programs call, and what several programs compare with."""

from __future__ import annotations

import os
from pathlib import Path

URL = os.environ["GATEWAY_URL"]
KEY = os.environ["GATEWAY_KEY"]
URL_WITHOUT_SERVICE = os.environ["GATEWAY_URL_WITHOUT_SERVICE"]
KEY_OF_ONE_MODEL = os.environ["GATEWAY_KEY_OF_ONE_MODEL"]
"""For the demo model only."""
KEY_LIMITED = os.environ["GATEWAY_KEY_LIMITED"]
"""For 20 calls a minute."""
WRONG_KEY = "fk_no_such_key"

SPEECH = Path(__file__).parents[2] / "real_model" / "speech"

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
"""Of the demo model at temperature 0."""
HELLO = "Hello, world!"
"""Of the scripted model to `say-hello`."""
ADA = {"born": 1815, "languages": ["en", "fr"], "name": "Ada"}
"""Of the scripted model to `say-json`."""
SUM = "What is 1234 * 5678?"
SUM_ANSWER = "1234 * 5678 is 7006652."
"""Of the demo model, when it has called a function `calculate`."""


CALCULATE_SCHEMA = {
    "type": "object",
    "properties": {"expression": {"type": "string"}},
    "required": ["expression"],
}
"""Of the arguments of `calculate`."""


def calculate(expression: str) -> int:
    """Evaluate an arithmetic expression."""
    first, sign, second = expression.split()
    assert sign == "*"
    return int(first) * int(second)
