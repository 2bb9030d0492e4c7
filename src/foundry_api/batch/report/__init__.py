"""The HTML report of a batch: one file that loads nothing."""
