"""Changes of what is served, and what the gateway reports about itself."""
