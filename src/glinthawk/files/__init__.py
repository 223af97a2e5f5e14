"""Converters at both ends of a job, which itself goes from JSONL to JSONL."""
