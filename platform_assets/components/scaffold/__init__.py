"""A model file from a table: what can be inferred, each part with its reason."""
