"""The verbs of the command line, in the order in which `--help` lists them."""

from __future__ import annotations

__all__ = ["VERBS"]

# A copy of each command's first line: reading it from the commands would import all of them.
VERBS = {
    "chat": "Chat with a model, or send a single prompt.",
    "embed": "Compute embeddings, one JSON array per line.",
    "batch": "Run a file of prompts, resumable at any time.",
    "transcribe": "Transcribe an audio file.",
    "models": "Manage models.",
    "ps": "Show models in memory, who uses them, and until when.",
    "status": "Show running services.",
    "health": "Check the health of a service, once or continuously.",
    "doctor": "Diagnose problems and suggest fixes.",
    "config": "Show or change your settings.",
    "templates": "Show the prompt templates of `chat`.",
    "logs": "Show logged prompts and conversations.",
    "cache": "Show or clear the response cache.",
    "keys": "Manage the API keys of the gateway.",
    "request": "Send an HTTP request to the service and print the response body.",
    "serve": "Serve models to applications, with keys, limits and metrics.",
    "engine": "Show what the engine logs.",
    "up": "Start a shared engine in the background.",
    "down": "Stop the shared engine.",
    "completion": "Print a script for shell completion.",
}
