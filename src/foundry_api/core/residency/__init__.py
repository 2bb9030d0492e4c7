"""The models in the memory of a service: who uses them, who may stay, and what comes and goes."""
