"""How a call runs, and what a client knows of its services and models."""
