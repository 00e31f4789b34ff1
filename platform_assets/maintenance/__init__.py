"""The maintenance job: what is older than its limit goes, unless something still needs it."""
