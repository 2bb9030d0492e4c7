"""The verbs of the command line, in the order that help shows them."""

from __future__ import annotations

__all__ = ["VERBS"]

VERBS = {
    "chat": "Ask a model: one prompt, or a conversation.",
    "embed": "Turn texts into vectors, one JSON array a line.",
    "batch": "Answer a whole file of prompts, and go on where it stopped.",
    "transcribe": "Tell what is said in a recording, as it is heard.",
    "models": "See, get and remove models.",
    "status": "Tell which services are running.",
    "health": "Look at a service's health, once or again and again.",
    "doctor": "Find what is wrong here, and tell how to mend it.",
    "cache": "See and clear the answers that are kept.",
    "request": "Send any request to the service, and print the body of its answer.",
    "up": "Start an engine that all programs share.",
    "down": "Stop the shared engine.",
}
