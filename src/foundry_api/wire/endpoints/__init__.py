"""How the endpoints beside chat completions are spoken to, and what the generations differ in."""
