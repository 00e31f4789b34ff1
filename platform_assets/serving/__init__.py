"""From a packaged version to production: load, prove, switch, keep the evidence."""
