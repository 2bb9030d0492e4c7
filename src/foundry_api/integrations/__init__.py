"""foundry_api as a provider of models for other libraries. Each module needs its extra."""
