"""Reads and checks model files on this machine."""
