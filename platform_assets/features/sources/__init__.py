"""Readers of sources, one module per kind, and the types that all of them end in."""
