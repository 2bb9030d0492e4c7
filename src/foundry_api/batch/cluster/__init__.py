"""Batches over a Ray cluster: what happens in the driver, at its desk and in the actors."""
