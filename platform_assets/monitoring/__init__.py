"""Drift: what the gateway really answered, held against what the model was trained on."""
