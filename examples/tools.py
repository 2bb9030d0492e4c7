"""A model that calculates and tells the time: typed functions that it may call.

python examples/tools.py
python examples/tools.py --model phi-4-mini "How late is it in Tokyo, and what is 17.5 % of 840?"
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

QUESTIONS = ("What is 12 * 34?", "What time is it?", "How late is it in Asia/Tokyo?")

OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression."""
    return f"{value_of(ast.parse(expression, mode='eval').body):.12g}"


async def current_time(timezone: str = "UTC") -> str:
    """Tell the time in a time zone."""
    return datetime.now(ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M")


def value_of(node: ast.expr) -> float:
    """The value of an expression of numbers. A model's words are never given to `eval`."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value_of(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATIONS:
            return OPERATIONS[type(sign)](value_of(left), value_of(right))
    raise ValueError("only numbers, + - * / and parentheses are understood")


async def main(questions: list[str], model: str) -> None:
    """Ask, and show every call with its result while the answer comes."""
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
