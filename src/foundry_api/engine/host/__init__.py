"""The child process that runs the native engine."""
