"""A conversation on the terminal: its turns, its commands, and the prompt."""
