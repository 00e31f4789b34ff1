"""The passport of a version: its origin, its verdicts, and its periods in production."""
