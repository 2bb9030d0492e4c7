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
    "gateway": "gateway",
    "openai": "other servers",
}

MARKS: dict[Support, str] = {"native": "yes", "corrected": "**corrected**", "unsupported": "no"}

ROWS = {
    "chat": "chat completions, complete and streamed",
    "names": "model names: alias, id, or id without version, in any case",
    "stop": "stop strings",
    "finish_reason": "finish reason `length` for a truncated answer",
    "usage": "token counts",
    "stream_errors": "a failed stream reports the reason",
    "cancellation": "the engine stops when the client disconnects",
    "prompt_cancellation": "the engine stops when the client disconnects while it reads the prompt",
    "parallel_calls": "concurrent calls to one model",
    "keep_alive": "keep-alives while it reads a prompt",
    "json_schema": "answers that match a JSON schema (else prompted, validated and retried)",
    "choice": "answers that are one of several choices (else as above)",
    "grammar": "answers that match a grammar",
    "tools": "tool calls separate from the text",
    "tool_choice": "`tool_choice`: the model has to call a tool",
    "tool_history": "tool results reach the model",
    "load": "load a model",
    "unload": "unload a model",
    "unload_while_generating": "survives unloading a model that is generating",
    "parallel_loads": "loading several models concurrently",
    "download": "download a model, with a service that this package did not start",
    "cached": "lists which models are cached",
    "responses": "Responses API, with truncated answers reported as incomplete",
    "chained_responses": "Responses: refuses an unknown `previous_response_id`",
    "embeddings": "embeddings",
    "embed_with_chat_model": "survives an embedding request for a chat model",
    "audio": "transcription",
    "images": "images in chat completions",
    "response_images": "Responses: images for a vision model",
    "refuses_images": "Responses: refuses images for a text model",
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
