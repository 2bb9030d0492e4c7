"""Health checks of a service, and the monitor that repeats them."""
