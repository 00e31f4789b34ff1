"""Typed clients for the systems around the pipeline."""
