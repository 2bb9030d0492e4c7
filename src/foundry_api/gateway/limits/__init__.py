"""Rates, quotas and queues: which call may start, and when."""
