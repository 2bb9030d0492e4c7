"""The public client classes."""
