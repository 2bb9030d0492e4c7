"""The gateway's own web page: its files, signing in, and the events that keep it up to date."""
