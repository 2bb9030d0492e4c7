"""Files of OpenAI's API, and the records of batches: a directory and a database."""
