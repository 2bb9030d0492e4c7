"""The gateway: an OpenAI-compatible service with keys, limits and metrics in front of an engine."""
