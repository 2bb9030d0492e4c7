"""Batches on a Ray cluster: a driver, a coordinator, and the actors that answer the lines."""
