"""Deadlines, timeouts, retries, circuit breakers and concurrency limits."""
