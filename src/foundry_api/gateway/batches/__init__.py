"""Batches of OpenAI's API: validated, run on the journal of `foundry_api.batch`, and finished."""
