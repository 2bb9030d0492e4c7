"""Requests and decoders of chat completions."""
