"""One dialect for each generation of Foundry Local."""
