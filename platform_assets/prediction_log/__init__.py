"""The prediction log as a whole: what is erased from it."""
