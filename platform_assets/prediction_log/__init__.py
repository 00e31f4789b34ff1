"""Erasure from the prediction log."""
