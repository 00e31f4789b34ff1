"""The changes of what is served, and what the gateway says of itself."""
