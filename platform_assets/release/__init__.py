"""Progressive release: the pilot that decides, its records, and the manual decisions."""
