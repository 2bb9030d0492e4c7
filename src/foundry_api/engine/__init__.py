"""Finding or running a service. Knows nothing of the client."""
