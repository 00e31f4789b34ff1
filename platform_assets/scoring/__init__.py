"""Batch scoring: the answers of the version in production for many rows, in one file."""
