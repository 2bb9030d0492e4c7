"""API keys of the gateway: their tokens, their database, and their look-up in memory.

A key is what `foundry-api keys create` makes; a token is the secret text that a client sends. A key
has one token, and for some time after a rotation also earlier ones. Only the digests of tokens are
stored.
"""
