"""Run many requests, and return exactly one result for each, even after crashes."""
