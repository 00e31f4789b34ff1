"""The auditable ledger: entries in a chain of hashes, signed with the deployment's key."""
