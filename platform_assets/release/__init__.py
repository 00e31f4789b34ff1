"""Progressive release: what the pilot decides by, what it writes down, and what people decide."""
