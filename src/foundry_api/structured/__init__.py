"""Structured output: schemas, choices and grammars, validation and repair requests."""
