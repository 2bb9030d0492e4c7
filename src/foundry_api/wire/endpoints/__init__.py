"""Request bodies and response decoders of the endpoints other than chat completions."""
