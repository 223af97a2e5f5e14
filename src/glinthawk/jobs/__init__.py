"""OpenAI batch lines in, result lines out, and the record of them that survives a kill."""
