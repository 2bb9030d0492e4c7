"""What the endpoints beside chat completions answer, as callers see it."""
