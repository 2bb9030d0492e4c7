"""Model providers for other libraries. Each module needs its extra."""
