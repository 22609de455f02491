"""The audit log: one line a request and one an administrative act, chained by hashes, with signed checkpoints."""
