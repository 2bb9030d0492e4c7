"""The models in the memory of a service: loading, unloading, and coordination of clients."""
