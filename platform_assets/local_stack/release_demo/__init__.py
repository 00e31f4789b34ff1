"""`make release-demo`: four versions of a small model, which a release promotes or stops."""
