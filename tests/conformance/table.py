"""The table of generations for the documentation.

`python -m tests.conformance.table` puts it into docs/generations.md.
"""

from __future__ import annotations

from pathlib import Path

from foundry_api.types.capabilities import CAPABILITIES, Support

COLUMNS = {
    "legacy": "CLI 0.3 to 0.9",
    "cli-0.10": "CLI 0.10",
    "sdk-1": "SDK 1.x",
    "sdk-2.0": "SDK 2.0",
    "sdk-2.1": "SDK 2.1 and later",
}

MARKS: dict[Support, str] = {"native": "yes", "corrected": "**corrected**", "unsupported": "no"}

ROWS = {
    "chat": "chat completions, whole and streamed",
    "names": "a model by alias, id, or id without version, in any case",
    "stop": "stop strings",
    "finish_reason": "`length` for an answer that was cut",
    "usage": "token counts",
    "stream_errors": "a stream that fails says why",
    "cancellation": "the engine stops when its caller leaves",
    "parallel_calls": "calls of one model side by side",
    "keep_alive": "signs of life while it reads a prompt",
    "json_schema": "answers kept to a JSON schema (else asked for, checked, and asked for again)",
    "choice": "answers kept to one of several texts (else as above)",
    "grammar": "answers kept to a grammar",
    "tools": "tool calls apart from the text",
    "tool_choice": "a model made to call a tool",
    "tool_history": "results of tools reach the model",
    "load": "load a model",
    "unload": "unload a model",
    "unload_while_generating": "survives being told to unload a model that generates",
    "parallel_loads": "several models loaded at once",
    "download": "download a model from a service that is not ours",
    "cached": "tells which models are on its machine",
    "responses": "Responses API, cut answers told from whole ones",
    "chained_responses": "refuses to go on from a response that it does not keep",
    "embeddings": "embeddings",
    "embed_with_chat_model": "survives being asked to embed with a model that cannot",
    "audio": "transcription",
    "images": "images in chat completions",
    "response_images": "images in Responses, for a model that sees",
    "refuses_images": "in Responses, refuses images for a model that sees none",
}

PAGE = Path(__file__).parents[2] / "docs" / "generations.md"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"


def make_table() -> str:
    """Return the table in Markdown."""
    generations = [name for name in COLUMNS if name in CAPABILITIES]
    lines = [
        f"|  | {' | '.join(COLUMNS[name] for name in generations)} |",
        f"|---|{'---|' * len(generations)}",
    ]
    for name, words in ROWS.items():
        cells = [MARKS[getattr(CAPABILITIES[generation], name)] for generation in generations]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def make_page() -> str:
    """Return the page with the current table."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + make_table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
