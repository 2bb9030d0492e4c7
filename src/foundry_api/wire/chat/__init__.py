"""Chat completions: from bytes to values."""
