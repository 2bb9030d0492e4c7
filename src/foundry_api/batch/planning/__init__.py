"""What a batch will take, told from a sample of it that is really run."""
