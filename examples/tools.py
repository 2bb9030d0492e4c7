"""Let a model call typed functions: a calculator and a clock.

python examples/tools.py
python examples/tools.py --model phi-4-mini "What time is it in Tokyo, and what is 17.5 % of 840?"
"""

import argparse
import ast
import asyncio
import operator
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import Chunk, FoundryAPIClient, FoundryError, ToolResult, ToolRun

QUESTIONS = ("What is 12 * 34?", "What time is it?", "What time is it in Tokyo?")

OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    return f"{evaluate(ast.parse(expression, mode='eval').body):.12g}"


async def current_time(timezone: str = "UTC") -> str:
    """Tell the time in a time zone."""
    return datetime.now(ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M")


def evaluate(node: ast.expr) -> float:
    """Return the value of an expression. Never pass a model's text to `eval`."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATIONS:
            return OPERATIONS[type(sign)](evaluate(left), evaluate(right))
    raise ValueError("only numbers, + - * / and parentheses are supported")


async def main(questions: list[str], model: str) -> None:
    """Print every tool call with its result, and the answer as it arrives."""
    async with FoundryAPIClient(model=model) as client:
        for question in questions:
            print(f"> {question}")
            run = client.stream_run_tools(question, [calculate, current_time], temperature=0)
            async for piece in run:
                if isinstance(piece, Chunk):
                    print(piece.content, end="", flush=True)
                elif isinstance(piece, ToolResult):
                    print(f"  {piece.name}({piece.arguments}) -> {piece.content}")
                elif isinstance(piece, ToolRun):
                    print(f"\n  {piece.turns} turns, {piece.usage.total_tokens} tokens\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="*", default=QUESTIONS, metavar="question")
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        asyncio.run(main(arguments.questions, arguments.model))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
