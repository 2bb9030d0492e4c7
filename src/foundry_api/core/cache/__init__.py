"""The response cache: keys, entries, and the places where answers are stored."""
