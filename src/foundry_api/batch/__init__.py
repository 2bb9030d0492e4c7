"""Batches: many requests, each answered exactly once, whatever dies meanwhile."""
