"""The server: OpenAI's files and batches, and interactive requests, on one engine."""
