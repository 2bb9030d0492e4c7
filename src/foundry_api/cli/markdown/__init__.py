"""Renders Markdown on a terminal while it streams: `blocks`, `inline`, `tables`, `wrapping`."""
