"""The node's GPUs as the kernel shows them."""
