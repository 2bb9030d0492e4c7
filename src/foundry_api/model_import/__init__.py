"""Converts models of Hugging Face and GGUF files into models for the engine."""
