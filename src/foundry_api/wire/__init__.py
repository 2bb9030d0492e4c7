"""How bytes become answers: transport, event stream, and one dialect for each generation."""
