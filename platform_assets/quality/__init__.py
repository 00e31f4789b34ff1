"""Live quality: predictions joined with outcomes, and the metric of each version on them."""
