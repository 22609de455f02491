"""Which GPUs and CPUs of a node each replica of a served model gets. Standard library alone; the decision itself is pure."""
