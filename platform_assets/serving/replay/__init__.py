"""The gate `replay`: a candidate answers logged requests before it gets live ones."""
