"""The gate `replay`: a candidate answers logged requests before it receives live ones."""
