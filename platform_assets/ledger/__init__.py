"""The auditable ledger: a hash chain of entries, signed with the deployment's key."""
