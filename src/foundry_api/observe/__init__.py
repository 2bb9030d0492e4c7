"""Listeners on the events of a client: a log, metrics, traces."""
