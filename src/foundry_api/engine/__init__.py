"""Finds or runs the service of a client."""
