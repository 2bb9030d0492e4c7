"""`/openapi.json` and `/docs`: a description of the gateway's API, made from its types."""
