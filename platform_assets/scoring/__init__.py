"""Batch scoring: the production version's predictions for many rows, in one file."""
