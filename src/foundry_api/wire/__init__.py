"""Transports, event streams, and one dialect for each service generation."""
