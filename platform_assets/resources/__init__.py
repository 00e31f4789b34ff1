"""Typed clients of the systems around the pipeline."""
