"""The passport of a version: where it came from, what let it pass, and when it served."""
