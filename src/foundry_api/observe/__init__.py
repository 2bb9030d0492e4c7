"""Listeners to the events of a client: log, metrics, traces."""
