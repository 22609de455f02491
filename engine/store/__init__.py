"""A node's store after the content arrived: every blob is hashed again on a schedule, and what no longer is what was signed is set aside."""
