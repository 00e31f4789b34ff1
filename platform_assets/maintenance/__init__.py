"""The maintenance job: delete what is older than its limit, unless it is still needed."""
