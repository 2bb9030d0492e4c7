"""Several services behind one gateway."""
