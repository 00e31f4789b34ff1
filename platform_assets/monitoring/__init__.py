"""Drift: compare sampled requests and predictions with the training data."""
