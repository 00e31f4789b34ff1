"""Live quality: predictions joined with their outcomes, and what versions are worth by them."""
