"""A page about a batch: one HTML file that asks nobody for anything."""
