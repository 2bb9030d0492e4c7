"""Values, results, errors, events, argument checks and settings."""
