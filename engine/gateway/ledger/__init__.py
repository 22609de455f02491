"""The one process that counts: budgets, slots, the write-ahead log and the audit chain. The logic is pure; ``server`` is its edge."""
